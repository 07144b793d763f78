"""Prints the table of the published models: python -m deit_hf"""

from .commands.models import main

if __name__ == "__main__":
    main()
