"""A program that does what its first argument says, in Python."""

import sys

if __name__ == "__main__":
    exec(sys.argv[1])
