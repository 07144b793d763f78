"""Keeps a run safe: checkpoints and resuming, signals, and faults of disk, memory and numbers.

Reading order: verification, checkpoints, run_identity, disk_faults, run_lock, resumable_trainer, checkpoint_events,
running_state, gradient_layout, stop_signals, step_outcome, numerical_faults, launch_checks, out_of_memory.
"""
