"""Events: settle the key a notification is about, then its user, by what the bucket holds now."""

from itertools import islice

from process_users.bucket import Bucket
from process_users.keys import SourceKey, parse_key
from process_users.ledger import Ledger
from process_users.notifications import Notification
from process_users.settings import Settings
from process_users.settling import remove_users, settle_keys
from serving.postgres import Connection

LISTED_SIBLINGS = 1_000


def settle_notification(
    notification: Notification, settings: Settings, connection: Connection, bucket: Bucket
) -> bool:
    """Settle one notification; returns False when it is about nothing of ours.

    The bucket is asked while no other can commit, so the order of events does not matter.
    """
    source = parse_key(notification.key, settings.source_prefix)
    if notification.bucket != settings.source_bucket or source is None:
        return False
    keys = {source.key}
    if notification.is_removal:
        # What takes over may be there without its event having come.
        keys.update(_list_siblings(source, settings.source_prefix, bucket))
    ledger = Ledger(connection, bucket=settings.source_bucket)
    settle_keys(sorted(keys), settings.source_prefix, bucket, ledger)
    if settings.remove_users and source.user_id is not None and ledger.lacks_record(source.user_id):
        remove_users([source.user_id], settings.source_prefix, bucket, ledger)
    return True


def _list_siblings(source: SourceKey, prefix: str, bucket: Bucket) -> list[str]:
    """Return the keys of the same user that the bucket lists."""
    if source.user_id is None:
        return []
    listing = islice(bucket.list_objects(f"{prefix}{source.user_id}."), LISTED_SIBLINGS)
    found = (parse_key(listed.key, prefix) for listed in listing)
    return [other.key for other in found if other is not None and other.user_id == source.user_id]
