"""What the scripts run, one module a command.

Reading order: train, evaluate, predict, compare, convert, push, models, benchmark; errors for exit
codes, parser for options that are mistyped.
"""
