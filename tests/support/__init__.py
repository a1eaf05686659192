"""What the tests stand on: real servers, real workers, real HTTP; each in a process of its own."""
