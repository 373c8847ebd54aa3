"""Events: settle the key a notification is about, then its user, by what the bucket holds now."""

from dataclasses import dataclass, field

from process_users.bucket import Bucket
from process_users.keys import list_user_keys, parse_key
from process_users.ledger import Ledger
from process_users.notifications import Notification
from process_users.settings import Settings
from process_users.settling import Settler
from serving.postgres import Connection


@dataclass(slots=True)
class Events:
    """Settles notifications, one process's from several threads."""

    settings: Settings
    # As far as is known: a guess, which costs time when it is wrong, and nothing else.
    _is_alone: bool = field(default=False, init=False)

    def settle(self, notification: Notification, connection: Connection, bucket: Bucket) -> bool:
        """Settle one notification; returns False when it is about nothing of ours."""
        settings = self.settings
        source = parse_key(notification.key, settings.source_prefix)
        if notification.bucket != settings.source_bucket or source is None:
            return False
        ledger = Ledger(connection, bucket=settings.source_bucket)
        settler = Settler(settings.source_prefix, bucket, ledger)
        if self._is_alone and settler.settle_alone(source):
            return True
        is_there = settler.settle_event(source)
        self._is_alone = ledger.is_alone
        if is_there or source.user_id is None:
            return True
        # What takes over may be there without its own event having come.
        others = [key for key in list_user_keys(source.user_id, settings.source_prefix) if key != source.key]
        settler.settle_keys(others)
        if settings.remove_users and ledger.lacks_record(source.user_id):
            ledger.remove_users([source.user_id])
        return True
