"""Accuracy of a saved model: python scripts/evaluate_model.py --model_name_or_path DIR --dataset_name NAME"""

from deit_hf.commands.evaluate import main

if __name__ == "__main__":
    main()
