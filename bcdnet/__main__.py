"""``python -m bcdnet`` is the console script ``bcdnet``."""

from bcdnet.cli import main

if __name__ == "__main__":
    main()
