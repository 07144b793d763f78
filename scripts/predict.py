"""Classifies images with a saved model: deit-hf predict MODEL PATH..."""

from deit_hf.commands.predict import main

if __name__ == "__main__":
    main()
