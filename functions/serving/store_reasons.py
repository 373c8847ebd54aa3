"""Why the store does not do what it is asked, in words, and which setting to look at (pure).

S3 says it in the `<Code>` of its answer, libcurl and Python in the error of a request without an answer. The
`<Message>` is never told: it may quote keys of objects.
"""

import re

_CODE = re.compile(rb"<Code>\s*([A-Za-z][A-Za-z0-9.]{0,63})\s*</Code>")
REGION = "check MINIO_REGION and MINIO_ENDPOINT"
ACCESS_KEY, SECRET_KEY = "check MINIO_ACCESS_KEY", "check MINIO_SECRET_KEY"
CLOCK = "set the clock of this machine"
RIGHTS = "check the policy of the key and the names of the buckets"
BUCKET = "check the name of the bucket, or run set-up"
LATER = "the store cannot do it now"
SPACE = "the store has no space left"
ENDPOINT = "check MINIO_ENDPOINT, and that the store runs"
CERTIFICATES = "check SSL_CERT_FILE, which names the authorities to trust"
HOST = "check the host in MINIO_ENDPOINT"
TLS = "check whether MINIO_ENDPOINT has to begin with http or https"

HINTS = {
    "AuthorizationHeaderMalformed": REGION,
    "AuthorizationQueryParametersError": REGION,
    "IllegalLocationConstraintException": REGION,
    "InvalidRegion": REGION,
    "PermanentRedirect": REGION,
    "TemporaryRedirect": REGION,
    "InvalidAccessKeyId": ACCESS_KEY,
    "InvalidSecurity": ACCESS_KEY,
    "NotSignedUp": ACCESS_KEY,
    "ExpiredToken": ACCESS_KEY,
    "InvalidToken": ACCESS_KEY,
    "InvalidTokenId": ACCESS_KEY,
    "SignatureDoesNotMatch": SECRET_KEY,
    "RequestTimeTooSkewed": CLOCK,
    "RequestExpired": CLOCK,
    "AccessDenied": RIGHTS,
    "AccountProblem": RIGHTS,
    "AllAccessDisabled": RIGHTS,
    "KMS.DisabledException": RIGHTS,
    "MethodNotAllowed": RIGHTS,
    "NoSuchBucket": BUCKET,
    "InvalidBucketName": BUCKET,
    "InternalError": LATER,
    "OperationAborted": LATER,
    "ServiceUnavailable": LATER,
    "SlowDown": LATER,
    "SlowDownRead": LATER,
    "SlowDownWrite": LATER,
    "RequestTimeout": LATER,
    "XMinioServerNotInitialized": LATER,
    "EntityTooLarge": SPACE,
    "QuotaExceeded": SPACE,
    "XMinioStorageFull": SPACE,
    "XMinioAdminBucketQuotaExceeded": SPACE,
    "SecondLevelDomainForbidden": "the store takes no buckets in the path, which Rollcall needs",
}
_OF_STATUS = {
    301: REGION,
    302: ENDPOINT,
    307: REGION,
    308: REGION,
    400: f"{REGION}, also whether it begins with http or https",
    401: ACCESS_KEY,
    403: f"{RIGHTS}, {ACCESS_KEY} and {SECRET_KEY}",
    404: f"{BUCKET}, or {ENDPOINT}",
    407: "a proxy is in the way",
    507: SPACE,
}
# Words of libcurl and Python for a request that was not answered.
_OF_WORDS = {
    r"subject name|ostname mismatch|IP address mismatch": HOST,
    r"certificate|self.signed|CA |issuer": CERTIFICATES,
    r"SSL|TLS|wrong version number|HTTP/0\.9|Empty reply|weird": TLS,
    r"resolve|Name or service|nodename|Temporary failure in name": HOST,
}


def find_code(body: bytes) -> str:
    """Return the code of an error of S3, empty when there is none of its form."""
    found = _CODE.search(body)
    return found[1].decode() if found else ""


def describe_answer(status: int, code: str) -> str:
    """Return what an answer of the store says, and what to look at: by its code, else by its status."""
    hint = HINTS.get(code) or _OF_STATUS.get(status) or (LATER if status >= 500 else ENDPOINT)
    return f"{code or 'no reason'} ({status}): {hint}" if status else f"{code}: {hint}"


def describe_silence(words: str) -> str:
    """Return why there was no answer, in the words of who asked, and what to look at."""
    words = " ".join(words.split())[:200].rstrip(".") or "no answer"
    hint = next((hint for pattern, hint in _OF_WORDS.items() if re.search(pattern, words)), ENDPOINT)
    return f"{words}: {hint}"


def list_hints() -> set[str]:
    """Return everything that may be said to look at."""
    return {*HINTS.values(), *_OF_STATUS.values(), *_OF_WORDS.values(), LATER, ENDPOINT}
