"""Events: settle the key a notification is about, then its user, by what the bucket holds now."""

from process_users.bucket import Bucket
from process_users.keys import list_user_keys, parse_key
from process_users.ledger import Ledger
from process_users.notifications import Notification
from process_users.settings import Settings
from process_users.settling import settle_keys
from serving.postgres import Connection


def settle_notification(
    notification: Notification, settings: Settings, connection: Connection, bucket: Bucket
) -> bool:
    """Settle one notification; returns False when it is about nothing of ours.

    The bucket is asked while no other can commit, so the order of events does not matter.
    """
    prefix = settings.source_prefix
    source = parse_key(notification.key, prefix)
    if notification.bucket != settings.source_bucket or source is None:
        return False
    ledger = Ledger(connection, bucket=settings.source_bucket)
    settle_keys([source.key], prefix, bucket, ledger)
    if source.user_id is None or ledger.fetch_revisions([source.key]):
        return True
    # It is gone. What takes over may be there without its own event having come.
    settle_keys(list_user_keys(source.user_id, prefix), prefix, bucket, ledger)
    if settings.remove_users and ledger.lacks_record(source.user_id):
        ledger.remove_users([source.user_id])
    return True
