"""`python -m kagura_tasks.cli`: the same as `kagura-tasks`."""

from kagura_tasks.cli import main

if __name__ == "__main__":
    main()
