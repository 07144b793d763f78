"""Several runs as one job that can be killed and started again.

Reading order: distill (the call), job (its stages), plan (its data, its runs and their options), settings (chosen by
the data), teacher_stage (does the teacher fit, how good is it), directory (which job a directory holds), results (the
table), arguments and options (what a user may ask for). Then study (rows of the paper's tables as trainings),
reproduce (trains those that are left), study_results (their files), study_table (means, differences), study_report
(the text). Last report_sources (the models of a report) and report (measures them).
"""
