"""Same as `deit-hf predict`."""

from deit_hf.commands.predict import main

if __name__ == "__main__":
    main()
