"""HTTP services that answer in JSON, whatever they are asked: indices of clip-retrieval, captioners; and webhooks.

Belongs here: one exchange, with its key, time-out and bounds (`exchange`), the waits between attempts (`backoff`), the event
loop that it all runs in, for callers in threads (`loop_thread`), and a message that only has to arrive (`webhook`). Whether a
service is asked again, and what an answer means, is for who asks. Downloads of images, which trust nobody, do not belong here.
"""
