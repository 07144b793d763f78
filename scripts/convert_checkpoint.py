"""Same as `deit-hf convert`."""

from deit_hf.commands.convert import main

if __name__ == "__main__":
    main()
