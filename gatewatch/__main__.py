"""python -m gatewatch: the command."""

from gatewatch.service.cli import main

if __name__ == "__main__":
    main()
