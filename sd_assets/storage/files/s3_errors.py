"""What went wrong with S3, in one line that says what to do, and holds no secret.

Of what the server or the client say only codes, kinds and (made public) messages are quoted: requests carry signatures and
session tokens, and some errors of the client quote their headers.
"""

from typing import Any

from sd_assets.views.text import public, shortened

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN, if they came with one), or a profile"
_DENIED = (
    "access is denied: the credentials need s3:GetObject, s3:PutObject and s3:DeleteObject there, and s3:ListBucket on the "
    "bucket (without which a missing object looks like this, too)"
)
_REFUSED = "the server does not know the credentials, or their secret is another one: " + _CREDENTIALS
_EXPIRED = "the credentials have expired: renew them and run again"
_THROTTLED = "the server throttles: run again with less at once, or later"
_FULL = "the server has no room left: make some and run again"
_REGION = "the bucket is in another region: set `region_name` or AWS_DEFAULT_REGION"
_NO_CREDENTIALS = "there are no (whole) credentials: " + _CREDENTIALS
_CERTIFICATE = "the certificate of the server is not valid here: name its authority by AWS_CA_BUNDLE"
_NO_S3 = "no S3 answers there: look at the endpoint (`endpoint_url`, AWS_ENDPOINT_URL)"
_NO_ANSWER = "look at the network and at the endpoint (`endpoint_url`, AWS_ENDPOINT_URL), and run again"

# By the code of an answer.
_CODES = {
    "NoSuchBucket": "there is no such bucket: create it, or mend the base (`base`, SD_ASSETS_DATA)",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "Forbidden": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidToken": _REFUSED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": "the clock of this machine and that of the server differ: set it",
    "SlowDown": _THROTTLED,
    "Throttling": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "503": _THROTTLED,
    "TooManyRequests": _THROTTLED,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "InsufficientStorage": _FULL,
    "507": _FULL,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NotImplemented": "the server cannot do this; a commit needs conditional writes (`If-None-Match: *`)",
}

# By the kind of an error of the client, or of a kind that it is of.
_KINDS = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": _EXPIRED,
    "SSOError": "log in anew (`aws sso login`) and run again",
    "SSLError": "the connection cannot be encrypted, or was cut: " + _NO_ANSWER,
    "ProxyConnectionError": "the proxy does not answer: look at HTTPS_PROXY and NO_PROXY",
    "EndpointConnectionError": "the server cannot be reached: " + _NO_ANSWER,
    "ConnectTimeoutError": "the server cannot be reached: " + _NO_ANSWER,
    "ReadTimeoutError": "the server did not answer in time: " + _NO_ANSWER,
    "ConnectionClosedError": "the connection was cut: " + _NO_ANSWER,
    "ResponseStreamingError": "the connection was cut while the answer came: " + _NO_ANSWER,
    "IncompleteReadError": "the connection was cut while the answer came: " + _NO_ANSWER,
    # Of urllib3, under boto3: whatever goes wrong with a body.
    "HTTPError": "the connection was cut while the answer came: " + _NO_ANSWER,
    "ResponseParserError": _NO_S3,
    "FlexibleChecksumError": "what came is not what was stored: " + _NO_ANSWER,
    "ParamValidationError": "that is no name of a bucket or an object: mend the base (`base`, SD_ASSETS_DATA)",
}


def is_of_certificate(error: Exception) -> bool:
    """Whether the server's certificate is refused; other errors of TLS are lost connections."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def explained(error: Any, attempts: int) -> str:
    """What an error of boto3 means, and what to do.

    Args:
        error: a `botocore.exceptions.ClientError` or `BotoCoreError`, a `ResponseParserError`, or urllib3's `HTTPError`.
        attempts: so often it was tried.
    """
    tried = f", tried {attempts} times" if attempts > 1 else ""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        kinds = [kind.__name__ for kind in type(error).__mro__]
        # A stray character in a credential fails here, and the error quotes it.
        other = "it cannot be asked: look at the endpoint, and for stray characters in the credentials"
        known = next((_KINDS[kind] for kind in kinds if kind in _KINDS), other)
        return f"{_CERTIFICATE if is_of_certificate(error) else known} ({kinds[0]}{tried})"
    code = str(answer.get("Error", {}).get("Code", ""))
    status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    said = f"{status} {shortened(code, 50)}{tried}"
    # An error of S3 has a code; without one, that of a page, boto3 takes the status for it, 500 if that was 200.
    means = _CODES.get(code) or _CODES.get(status) or (_NO_S3 if code == status else None)
    if means is None:
        message = shortened(public(str(answer.get("Error", {}).get("Message", ""))), 200)
        means = (
            f"the server failed ({message}): run again, later if it goes on"
            if status >= "5"
            else f"the server refused: {message}"
        )
    return f"{means} ({said})"
