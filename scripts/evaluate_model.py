"""Same as `deit-hf evaluate`."""

from deit_hf.commands.evaluate import main

if __name__ == "__main__":
    main()
