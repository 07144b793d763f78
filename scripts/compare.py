"""Same as `deit-hf compare`."""

from deit_hf.commands.compare import main

if __name__ == "__main__":
    main()
