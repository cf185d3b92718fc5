"""Leases limit how many exports run at once."""

from django.db import models

from .people import User


class Lease(models.Model):
    """One of the places of a kind, for one request at a time. It is free if it has no person or `until` has passed.

    `until` frees the place of a killed process. `token` identifies the holder: a request that has lost its lease must
    neither extend nor free the next holder's.
    """

    kind = models.CharField(max_length=30)
    place = models.PositiveSmallIntegerField()
    person = models.ForeignKey(User, models.CASCADE, null=True, related_name="+")
    token = models.UUIDField(null=True)
    until = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint("kind", "place", name="one_lease_a_place"),
            models.UniqueConstraint("kind", "person", name="one_lease_a_person"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"
