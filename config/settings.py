"""The only settings module. What differs between deployments comes from the environment (`config/environment.py`)."""

import logging

from django.utils.crypto import salted_hmac
from huey.serializer import SignedSerializer

from config import environment as env
from config import logs, mail, network, sso

env.load_env_file()

BASE_DIR = env.BASE_DIR
SITE = env.site()
DEBUG = env.debug(SITE)
SITE_URL = SITE.url
DATA_DIR = env.data_dir()

# --- Secrets
SECRET_KEY = env.secret_key()
ENCRYPTION_KEYS = env.encryption_keys()
AUDIT_SIGNING_KEY = env.signing_key()
AUDIT_PUBLIC_KEYS = env.public_keys()  # older keys whose anchors are still accepted
AUDIT_ANCHOR_FILE = env.anchor_file()  # a copy of the anchors, outside the database

# --- Arize
ARIZE_ENDPOINTS = env.arize_endpoints()
NETWORK = network.of_environment(ARIZE_ENDPOINTS)  # proxy and certificates, for single sign-on too
ARIZE_CALLS_PER_MINUTE = env.integer("ARIZE_CALLS_PER_MINUTE", 300, at_least=1)
TOKEN_REQUESTS_PER_MINUTE = env.integer("TOKEN_REQUESTS_PER_MINUTE", 120, at_least=1)  # per token
CANCELS_PER_SECOND = env.integer("CANCELS_PER_SECOND", 20, at_least=1, at_most=1_000)  # per key, in batches
WORKER_THREADS = env.integer("WORKER_THREADS", 16, at_least=2, at_most=200)  # keys read at once by one worker
RUN_RETENTION_DAYS = env.integer("RUN_RETENTION_DAYS", 400, at_least=1, at_most=36_500)

# --- Apps, middleware and templates
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
INSTALLED_APPS = [
    "taskruns.apps.TaskrunsConfig",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "django_structlog",
    "heroicons",
    "huey.contrib.djhuey",
]
MIDDLEWARE = [
    "taskruns.middleware.ClientAddress",
    # Security-header middleware comes first, so error responses get the headers too.
    "taskruns.middleware.StrictTransport",
    "taskruns.middleware.NeverStored",
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "taskruns.middleware.Gateway",
    "taskruns.middleware.Health",  # before any middleware that checks the host name or reads the session
    "taskruns.middleware.Metrics",
    "taskruns.middleware.Body",  # before the session is loaded
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "taskruns.middleware.SessionCookie",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "taskruns.middleware.RequestLog",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "taskruns.middleware.SessionLimits",
    "taskruns.middleware.SamePerson",
    "taskruns.middleware.PersonTimeZone",
    "taskruns.middleware.OnlyForms",
    "taskruns.middleware.FailClosed",  # last: turns a database error in a view into a 503
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "taskruns.views.frame.frame",
            ],
            "builtins": ["taskruns.templatetags.parts"],
        },
    }
]

# --- Data
DATABASES = {"default": env.database(DATA_DIR / "taskruns.sqlite3")}
MIGRATE_DATABASE = env.owner_database()  # for `manage.py migrate` only
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# The sign-in throttle counts in this cache, in the database, so that all processes share the counts.
CACHES = {"default": {"BACKEND": "taskruns.cache.JsonDatabaseCache"}}
HUEY = env.queue(DATA_DIR / "queue.sqlite3") | {
    "name": "taskruns",
    "serializer": SignedSerializer(
        secret=salted_hmac("taskruns.queue", "messages", secret=SECRET_KEY, algorithm="sha256").hexdigest(),
        salt="taskruns.queue",
    ),  # unsigned messages are dropped: write access to the queue must not run code
    "immediate": False,
    "results": False,
    "utc": True,
    "consumer": {
        "workers": 3,  # for mails, verifications and wake-ups; the clock has threads of its own
        "periodic": False,
        "worker_type": "thread",
        "max_delay": 0.2,
        "graceful_signal": "TERM",
        "shutdown_timeout": 4,
    },
}

# --- People
AUTH_USER_MODEL = "taskruns.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
ACCOUNT_ADAPTER = "taskruns.views.people.sign_in.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_ON_PASSWORD_RESET = False
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False  # keep this session; all other sessions of the person end
ACCOUNT_FORMS = {
    "login": "taskruns.views.people.sign_in.LoginForm",
    "change_password": "taskruns.views.people.sign_in.ChangePasswordForm",
    "reauthenticate": "taskruns.views.people.sign_in.ReauthenticateForm",
    "reset_password": "taskruns.views.people.password_reset.AskForm",
    "user_token": "taskruns.views.people.password_reset.TokenForm",
}
# Not allauth's own limit: a stranger at the same address could use it to lock people out. `login_from_stranger` counts
# all attempts, except those from a browser in which the person has signed in before. Wrong passwords have their own
# limits in `services/people/sign_in_limits.py`.
ACCOUNT_RATE_LIMITS = {"login": "", "login_from_stranger": "30/m/ip"}
# Managers, auditors and site admins have no access until they set up a second factor.
REQUIRE_MFA = env.boolean("REQUIRE_MFA", default=True)
MFA_ADAPTER = "taskruns.views.people.factor_checks.MfaAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = f"Taskruns ({SITE.host})"
MFA_TOTP_TOLERANCE = 1  # 30 s steps before and after, for clock drift and slow typing
MFA_FORMS = {
    "authenticate": "taskruns.views.people.factor_checks.CodeForm",
    "reauthenticate": "taskruns.views.people.factor_checks.ConfirmCodeForm",
    "authenticate_webauthn": "taskruns.views.people.factor_checks.PasskeyStepForm",
    "login_webauthn": "taskruns.views.people.factor_checks.PasskeyLoginForm",
    "reauthenticate_webauthn": "taskruns.views.people.factor_checks.ConfirmPasskeyForm",
}
OIDC = sso.provider()
SSO_ONLY = sso.only(OIDC)
SOCIALACCOUNT_ADAPTER = "taskruns.views.sso.sign_in.SsoAdapter"
SOCIALACCOUNT_STORE_TOKENS = False

# --- Channels
NOTIFY_HOSTS = env.notify_hosts()

# --- Mail: without EMAIL_URL the panel sends none, and no page offers it
MAILS = (_mail := mail.of_environment(SITE.host)) is not None
_mail = _mail or mail.Mail()
EMAIL_BACKEND, DEFAULT_FROM_EMAIL = _mail.backend, _mail.sender
EMAIL_HOST, EMAIL_PORT, EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail.host, _mail.port, _mail.user, _mail.password
EMAIL_USE_TLS, EMAIL_USE_SSL, EMAIL_TIMEOUT = _mail.use_tls, _mail.use_ssl, 10

# --- Public address and HTTP security: derived from SITE_URL and TRUSTED_PROXIES
TRUSTED_PROXIES = env.integer("TRUSTED_PROXIES", 0, at_most=10)
ALLAUTH_TRUSTED_PROXY_COUNT = TRUSTED_PROXIES
ALLOWED_HOSTS = SITE.allowed_hosts
CSRF_TRUSTED_ORIGINS = SITE.trusted_origins
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
SECURE_SSL_REDIRECT = SITE.secure and TRUSTED_PROXIES > 0
SECURE_SSL_HOST = SITE.netloc  # never the Host header of the client
# The first ones come over loopback, not through the proxy. To scripts the gateway itself says that it needs https.
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$", r"^v2(/|$)"]
SECURE_HSTS_SECONDS = 31_536_000 if SITE.secure else 0
# Subdomains may belong to others, so the panel does not decide for them.
SECURE_HSTS_INCLUDE_SUBDOMAINS = False
# W008: without a trusted proxy the panel cannot tell http from https and would redirect in a loop. The TLS proxy has to
# redirect instead. HSTS and secure cookies keep browsers on https anyway.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SITE.secure
SESSION_ENGINE = "taskruns.models.session_store"
COOKIES = env.cookies(SITE)
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = COOKIES.session, COOKIES.csrf
DEVICE_COOKIE_NAME = COOKIES.device  # marks a browser as known
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_IDLE_HOURS = env.integer("SESSION_IDLE_HOURS", 12, at_least=1, at_most=24 * 365)
SESSION_MAX_DAYS = env.integer("SESSION_MAX_DAYS", 7, at_least=1, at_most=365)
SESSION_COOKIE_AGE = SESSION_MAX_DAYS * 24 * 3600
MESSAGE_STORAGE = "taskruns.middleware.Messages"
CSRF_FAILURE_VIEW = "taskruns.views.errors.csrf_failed"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        # Browsers also apply form-action to redirects after a form, such as the one to the sign-in provider.
        "form-action": ["'self'", *(OIDC.origins if OIDC else [])],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000  # bytes; middleware.Body refuses larger ones, files too, before reading them
# The confirmed list of a bulk cancel has one field per run.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_000

# --- Static files and language
STATIC_URL = "static/"
STATIC_ROOT = env.static_root(DATA_DIR / "static")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "config.static_files.Storage",
        # Outside DATA_DIR, another account may have to read them. They are no secret.
        "OPTIONS": {} if STATIC_ROOT.is_relative_to(DATA_DIR) else {"directory_permissions_mode": 0o755},
    },
}
LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# --- For machines
METRICS_TOKEN = env.metrics_token()

# --- Logs and error reports
DEFAULT_EXCEPTION_REPORTER_FILTER = "config.reports.NoValues"
LOGGING_CONFIG = None
AUDIT_LOG_STREAM = env.boolean("AUDIT_LOG_STREAM", default=False)
# It would log an address that the client can forge. `middleware.RequestLog` logs the verified one.
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True  # as checked by middleware.ClientAddress
logs.configure(env.log_level())
