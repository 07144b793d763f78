"""What must not be lost.

Reading order: verification, checkpoints, run_identity, disk_faults, run_lock, resumable_trainer, gradient_layout,
stop_signals, step_outcome, numerical_faults, launch_checks, out_of_memory.
"""
