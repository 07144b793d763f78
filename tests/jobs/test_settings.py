"""The settings that a job chooses, by the number of images and the start."""

import pytest

from deit_hf.jobs.settings import SMALL_DATA, pretrained_settings, scratch_settings, teacher_settings


@pytest.mark.parametrize(
    ("num_images", "epochs"),
    [(100, 300), (3_334, 300), (10_000, 100), (33_333, 30), (1_281_167, 30)],
)
def test_about_a_million_views_from_scratch_between_30_and_300_epochs(num_images: int, epochs: int):
    assert scratch_settings(num_images, {}).options["num_train_epochs"] == epochs


@pytest.mark.parametrize(
    ("num_images", "batch", "rate"),
    [(100_000, 128, 1e-3 * 8**-0.5), (1_000, 64, 2.5e-4), (102, 8, 1e-3 * 128**-0.5), (12, 2, 1e-3 * 512**-0.5)],
)
def test_a_small_batch_from_scratch_has_a_useful_learning_rate(num_images: int, batch: int, rate: float):
    options = scratch_settings(num_images, {}).options
    assert options["per_device_train_batch_size"] == batch
    assert options["learning_rate"] == pytest.approx(rate)


def test_the_learning_rate_from_scratch_follows_the_batch_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    given = {"per_device_train_batch_size": 256, "gradient_accumulation_steps": 2}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert scratch_settings(10_000, given).options["learning_rate"] == pytest.approx(1e-3)  # the paper's
    assert "learning_rate" not in scratch_settings(10_000, {"base_learning_rate": 1e-3}).options


def test_a_pretrained_start_has_small_data_settings_and_above_5000_images_the_papers_augmentation():
    few, many = (pretrained_settings(number, is_deit=True).options for number in (SMALL_DATA, SMALL_DATA + 1))
    assert (few["num_train_epochs"], many["num_train_epochs"]) == (30, 20)
    assert few["mixup_alpha"] == few["random_erase_prob"] == 0
    changed = {name for name in few if few[name] != many.get(name)}
    assert changed == {
        "num_train_epochs",
        "repeated_augmentation",
        "mixup_alpha",
        "random_erase_prob",
        "crop_min_scale",
    }
    assert few["learning_rate"] == many["learning_rate"] == 1e-4
    assert "max_steps" not in few
    assert "drop_path_rate" not in pretrained_settings(9, is_deit=False).options


def test_every_run_of_a_job_keeps_its_best_epoch():
    for settings in (scratch_settings(99, {}), pretrained_settings(99, is_deit=True), teacher_settings(3, "head")):
        assert settings.options["load_best_model_at_end"] is True
        assert settings.options["eval_strategy"] == settings.options["save_strategy"] == "epoch"


def test_a_fitted_teacher_keeps_its_features_unless_all_is_trained():
    head, whole = teacher_settings(3, "head").options, teacher_settings(3, "all").options
    assert (head["train_only"], head["student_mode"], head["num_train_epochs"]) == ("head", "eval", 3)
    assert "train_only" not in whole
    assert whole["learning_rate"] < head["learning_rate"]
