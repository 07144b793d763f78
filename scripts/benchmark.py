"""Same as `deit-hf benchmark`."""

from deit_hf.commands.benchmark import main

if __name__ == "__main__":
    main()
