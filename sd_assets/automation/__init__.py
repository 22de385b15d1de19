"""How runs start: schedules, sensors, and launching a job from a script.

Here belongs when something runs. What does not: what it does (`assets`), and what is right about its result
(`checks`).
"""
