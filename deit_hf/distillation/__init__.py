"""The distillation losses, the teacher, and the format of its stored answers.

Reading order: losses, teacher, teacher_view, teacher_speed, answer_format, teacher_cache, epoch_writer,
view_checksums.
"""
