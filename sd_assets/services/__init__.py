"""HTTP services that answer in JSON, whatever they are asked: indices of clip-retrieval, captioners.

Belongs here: one exchange, with its key, time-out and bounds (`exchange`), the waits between attempts (`backoff`), and the event
loop that it all runs in, for callers in threads (`loop_thread`). Whether something is asked again, and what an answer means, is
for who asks. Downloads of images, which trust nobody, do not belong here.
"""
