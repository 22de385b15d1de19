"""How runs start: schedules, sensors, and launching a job from a script; and what is said when one fails.

Here belongs when something runs, and who is told of it. What does not: what it does (`assets`), and what is right about its
result (`checks`).
"""
