"""The `deit-hf` command as a module: python -m deit_hf"""

from .commands.main import main

if __name__ == "__main__":
    main()
