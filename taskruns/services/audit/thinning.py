"""Thinning the anchors: of those older than KEPT_WHOLE, the last of each UTC day stays in each chain.

Only anchors that this panel signed are deleted, and only if one that it signed stays for the day. What someone planted
stays, for a verification to find.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby, islice
from typing import Any

import structlog
from django.core.cache import cache

from taskruns.audit.raw_rows import tolerant_text
from taskruns.audit.row_json import value_as_json
from taskruns.audit.signing_keys import public_keys
from taskruns.audit.thinning import delete_anchors, thinned_before, why_not_thinned
from taskruns.models import AnchorToPublish, AuditAnchor, AuditChain
from taskruns.verifier import signature_holds

from .rows import ANCHOR, stream_values

log = structlog.get_logger(__name__)

CHUNK = 500  # anchors in one statement: others must not wait for long
MOST = 10_000  # anchors at a time, then the other jobs have their turn
# Anchors are read in order of age. After this many young ones in a row, there is no older one unless a clock was wrong.
YOUNG_IN_A_ROW = 1_000
_SAID = "audit-anchors-not-thinned-said"
_SAID_EVERY = timedelta(days=1)


def thin_anchors() -> bool:
    """Delete some of the old anchors. True if there may be more."""
    if problem := why_not_thinned():
        if cache.add(_SAID, problem, _SAID_EVERY.total_seconds()):
            log.warning("audit_anchors_not_thinned", problem=problem)
        return False
    before, deleted = value_as_json(thinned_before()), Counter[str]()
    for chain, keys in _chunks(before):
        deleted[chain] += delete_anchors(keys)
        if deleted.total() >= MOST:
            break
    if deleted:
        counts = {ascii(chain)[1:-1]: number for chain, number in deleted.items()}
        log.info("audit_anchors_thinned", signed_before=before, deleted=counts)
    return deleted.total() >= MOST


def _chunks(before: str) -> Iterator[tuple[str, list[int]]]:
    with tolerant_text():
        chains = list(AuditChain.objects.order_by("chain").values_list("chain", flat=True))
    for chain in chains:
        superfluous = _superfluous(chain, before)
        while chunk := list(islice(superfluous, CHUNK)):
            waiting = set(AnchorToPublish.objects.filter(pk__in=chunk).values_list("pk", flat=True))
            if keys := [key for key in chunk if key not in waiting]:
                yield chain, keys


def _superfluous(chain: str, before: str) -> Iterator[int]:
    """Primary keys of the chain's old anchors, without the last one of each day."""
    for _day, anchors in groupby(_old(chain, before), key=lambda anchor: anchor["signed_at"][:10]):
        of_the_day = list(anchors)
        if len(of_the_day) > 1:
            keys = public_keys()
            ours = [anchor["id"] for anchor in of_the_day if signature_holds(_statement(anchor), keys)]
            yield from ours[:-1]


def _statement(anchor: dict[str, Any]) -> dict[str, Any]:
    return {name: anchor[name] for name in ANCHOR}


def _old(chain: str, before: str) -> Iterator[dict[str, Any]]:
    young = 0
    for anchor in stream_values(AuditAnchor.objects.filter(chain=chain), (*ANCHOR, "id")):
        if isinstance(anchor["signed_at"], str) and anchor["signed_at"] < before:
            young = 0
            yield anchor
        elif (young := young + 1) == YOUNG_IN_A_ROW:
            return
