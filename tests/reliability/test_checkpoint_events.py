"""When checkpoints are saved in addition to `Trainer`'s times."""

from types import SimpleNamespace

from transformers import TrainerControl

from deit_hf.reliability.checkpoint_events import CheckpointEvents
from deit_hf.reliability.stop_signals import StopSignals


def save_after_step(events: CheckpointEvents, *, epoch: float) -> bool:
    """Whether a checkpoint that is due after a step is saved at once."""
    control = TrainerControl(should_save=True)
    events.on_step_end(None, SimpleNamespace(epoch=epoch, global_step=5, max_steps=10), control)
    return control.should_save


def saves_at_epoch_end(events: CheckpointEvents) -> bool:
    control = TrainerControl(should_save=False)
    events.on_epoch_end(None, None, control)
    return control.should_save


def test_a_save_in_the_last_step_of_an_epoch_waits_for_the_events_of_the_epoch():
    events = CheckpointEvents(StopSignals())
    assert save_after_step(events, epoch=0.5)
    assert not saves_at_epoch_end(events)
    assert not save_after_step(events, epoch=1.0)
    assert saves_at_epoch_end(events)
    assert not saves_at_epoch_end(events)


def test_a_save_that_an_aborted_training_left_is_not_made_up_for_by_the_next_one():
    events = CheckpointEvents(StopSignals())
    save_after_step(events, epoch=1.0)
    events.on_train_begin(None, None, None)
    assert not saves_at_epoch_end(events)
