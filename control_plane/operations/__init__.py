"""Long-running operations: what a call began and has not finished when it answers.

Owns their record, their steps and the worker that takes them, and the RPCs to watch them; and how work comes again that
nobody has called for (`periodic.py`). Does not own what a step does: each context brings its plans. Start reading at
`plan.py`.
"""
