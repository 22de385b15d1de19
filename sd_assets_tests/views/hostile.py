"""Texts of the web that want to be more than text, and secrets that want to be seen."""

HOSTILE = (
    "![a picture](http://evil.example/pixel.png)",
    "[click](javascript:alert(1)) <http://evil.example>",
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "`` ` code` | a | new | cell |\n\n# a heading\n\n| x |\n| - |",
    "</text></svg><script>alert(1)</script>",
    "ends in a backslash \\",
    "\\`\\| <!-- ]]> &lt;b&gt; &#x41;",
    "right \u202eto left\u202c, bell \x07, zero \x00, half a \udc80 pair",
)

# A URL or a text, and what of it must not be seen.
SECRETS = (
    ("https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIAXYZ&X-Amz-Signature=5ec2e7", "5ec2e7"),
    ("https://account.blob.core.windows.net/c/a.jpg?sv=2024&sig=5ec2e7%3D", "5ec2e7"),
    ("https://user:5ec2e7@example.org/a.jpg", "5ec2e7"),
    ("https://user:5e/c2e7@example.org/a.jpg", "c2e7"),
    ("http://5ec2e7@example.org/a.jpg", "5ec2e7"),
    ("https://proxy.example/https://user:5ec2e7@example.org/a.jpg", "5ec2e7"),
    ("https://example.org/a.jpg#access_token=5ec2e7", "5ec2e7"),
    ("redirect to '/next?token=5ec2e7' failed", "5ec2e7"),
    ("Authorization: Bearer 5ec2e75ec2e7", "5ec2e7"),
    ('{"api_key": "5ec2e7", "size": 3}', "5ec2e7"),
    ("password=5ec2e7 refused", "5ec2e7"),
    ("the token hf_AbCdEfGhIjKlMnOpQrSt is not valid", "AbCdEf"),
    ("key AKIAIOSFODNN7EXAMPLE unknown", "IOSFODNN7"),
)
