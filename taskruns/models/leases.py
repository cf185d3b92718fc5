"""Who holds one of the few places for heavy answers."""

from django.db import models

from .people import User


class Lease(models.Model):
    """A place for one heavy answer at a time. Free without a person or past `until`: a killed process keeps none."""

    kind = models.CharField(max_length=30)
    place = models.PositiveSmallIntegerField()
    person = models.ForeignKey(User, models.CASCADE, null=True, related_name="+")
    token = models.UUIDField(null=True)  # of the holder: who was too slow must not extend or free another's lease
    until = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint("kind", "place", name="one_lease_a_place"),
            models.UniqueConstraint("kind", "person", name="one_lease_a_person"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"
