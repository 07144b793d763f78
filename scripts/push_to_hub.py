"""Pushes a run's directory to the Hub: python scripts/push_to_hub.py DIR --hub_model_id user/name"""

from deit_hf.commands.push import main

if __name__ == "__main__":
    main()
