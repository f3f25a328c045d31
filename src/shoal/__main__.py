"""`python -m shoal`: the command, where its script is not on the path."""

from shoal.cli.main import main

if __name__ == "__main__":
    main()
