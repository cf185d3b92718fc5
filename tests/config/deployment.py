"""The smallest environment in which the panel starts."""

FERNET = "bmV3LXJpbmcta2V5LW9mLXRoZS10ZXN0cy0wMTIzNDU="
GOOD = {
    "SECRET_KEY": "test-secret-key-that-is-long-enough-0123456789",
    "ENCRYPTION_KEYS": f"2:{FERNET}",
    "AUDIT_SIGNING_KEY": "YXVkaXQtc2lnbmluZy1rZXktb2YtdGhlLXRlc3RzLTE=",
}
