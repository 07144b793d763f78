"""The old name of evaluate_model.py; a folder, because a file of this name would hide the `evaluate` library."""

from deit_hf.commands.evaluate import main

if __name__ == "__main__":
    main()
