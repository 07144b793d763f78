"""Classifies images with a saved model: python scripts/predict.py IMAGE... --model DIR"""

from deit_hf.commands.predict import main

if __name__ == "__main__":
    main()
