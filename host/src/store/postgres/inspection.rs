//! What a server states about itself, as rows for the operator.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use crate::store::News;
use crate::store::postgres::address::{Address, Proof, Server};
use crate::store::postgres::failure::{Failure, printable};
use crate::store::postgres::news;
use crate::store::postgres::session::{Facts, Session};
use crate::store::postgres::table::Place;
use crate::store::remote::{CALL_TIMEOUT, Finding, Usable};

/// How long a notification may need.
const NEWS_TIMEOUT: Duration = Duration::from_secs(1);

/// The version of the server, the synchronous standbys, and the number of
/// the connected ones.
const SERVER: &str = "SELECT pg_catalog.current_setting('server_version'), \
                      pg_catalog.current_setting('synchronous_standby_names'), \
                      (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)";

/// Whether the table exists, whether this user may create it, and what is lacking: to this user to
/// use it, and to others to be kept from it.
const TABLE: &str = "SELECT found IS NOT NULL, \
    pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'CREATE'), \
    found IS NULL OR pg_catalog.has_table_privilege(found, 'SELECT') \
        AND pg_catalog.has_table_privilege(found, 'INSERT') \
        AND pg_catalog.has_table_privilege(found, 'UPDATE') \
        AND pg_catalog.has_table_privilege(found, 'DELETE'), \
    EXISTS (SELECT FROM pg_catalog.pg_class AS class, pg_catalog.aclexplode(class.relacl) AS entry \
        WHERE class.oid = found AND entry.grantee = 0) \
    FROM pg_catalog.to_regclass($1) AS found";

/// Checks a server. A finding that forbids its use is no failure.
pub(super) async fn inspect(address: &Arc<Address>, place: &Place) -> Result<Vec<Finding>, Failure> {
    let (session, facts) = connect(address).await?;
    let mut findings = vec![encryption(address)];
    findings.extend(settings(facts));
    let failed = |error| session.failure(&error);
    let row = session.client.query_typed_one(SERVER, &[]).await.map_err(failed)?;
    let column = |index| row.try_get::<_, &str>(index).map_err(failed);
    let (version, names) = (printable(column(0)?), printable(column(1)?));
    let standbys: i64 = row.try_get(2).map_err(failed)?;
    findings.insert(0, finding("server", format!("PostgreSQL {version} at {}", session.server), Usable::Yes));
    findings.push(replication(address, &names, standbys));
    findings.push(proof(address.proof, &names));
    if facts.in_recovery {
        return Ok(findings);
    }
    let name = address.table.quoted();
    let row = session.client.query_typed_one(TABLE, &[(&name, Type::TEXT)]).await.map_err(failed)?;
    let mut flags = [false; 4];
    for (index, flag) in flags.iter_mut().enumerate() {
        *flag = row.try_get::<_, Option<bool>>(index).map_err(failed)?.unwrap_or(false);
    }
    findings.push(table(address, flags));
    findings.push(news_arrive(address, place, &session).await);
    Ok(findings)
}

/// Connects to the server that the store uses. Without one, connects to any that answers, whose
/// faults are the findings.
async fn connect(address: &Arc<Address>) -> Result<(Session, Facts), Failure> {
    // A silent server must leave time to ask the others.
    match timeout(CALL_TIMEOUT, Session::connect_if(address, None, Facts::fault)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(_)) | Err(_) => Session::connect_if(address, None, |_| None).await,
    }
}

fn finding(check: &str, found: impl Into<String>, usable: Usable) -> Finding {
    Finding { check: check.to_owned(), found: found.into(), usable }
}

fn encryption(address: &Address) -> Finding {
    let found = match (&address.tls, address.servers.first()) {
        (Some(_), _) => "TLS, with the certificate verified for the name of the host",
        (None, Some(Server::Socket { .. })) => "a Unix socket of this machine",
        (None, _) => "plain text on the loopback interface",
    };
    finding("encryption", found, Usable::Yes)
}

fn settings(facts: Facts) -> [Finding; 3] {
    let setting = |name: &str, on: bool, harm: &str| {
        let (found, usable) = if on { ("on".to_owned(), Usable::Yes) } else { (harm.to_owned(), Usable::No) };
        finding(name, found, usable)
    };
    let role = match facts {
        Facts { in_recovery: true, .. } => {
            finding("role", "a standby, which may be behind; name the primary", Usable::No)
        }
        Facts { read_only: true, .. } => {
            finding("role", "a primary with default_transaction_read_only on; turn it off", Usable::No)
        }
        _ => finding("role", "a primary", Usable::Yes),
    };
    [
        role,
        setting("fsync", facts.fsync, "off, so that a power cut undoes changes; set fsync = on and reload"),
        setting(
            "full_page_writes",
            facts.full_page_writes,
            "off, so that a power cut damages tables; set full_page_writes = on and reload",
        ),
    ]
}

/// What a failover keeps.
fn replication(address: &Address, names: &str, standbys: i64) -> Finding {
    let (found, usable) = match (names.is_empty(), standbys > 0 || address.servers.len() > 1) {
        (false, _) => (format!("synchronous, by {names}: a failover keeps every change"), Usable::Yes),
        (true, true) => (
            "asynchronous: a failover can undo the newest changes and revive a revoked token; set \
             synchronous_standby_names"
                .to_owned(),
            Usable::WithLimit,
        ),
        (true, false) => ("none: this server has the only copy".to_owned(), Usable::Yes),
    };
    finding("replication", found, usable)
}

fn proof(proof: Proof, names: &str) -> Finding {
    let (found, usable) = match (proof, names.is_empty()) {
        (Proof::Write, false) => ("a commit that a standby confirms, with every read", Usable::Yes),
        (Proof::Write, true) => (
            "proof=write adds nothing without synchronous standbys; set synchronous_standby_names",
            Usable::WithLimit,
        ),
        (Proof::Read, false) => (
            "a read of the primary; an old primary that a failover leaves running looks the same, unless the \
             URL has proof=write",
            Usable::WithLimit,
        ),
        (Proof::Read, true) => ("a read of the primary", Usable::Yes),
    };
    finding("proof", found, usable)
}

fn table(address: &Address, [exists, may_create, may_use, public]: [bool; 4]) -> Finding {
    let (table, advice) = (&address.table, address.table.advice(&address.user));
    let (found, usable) = match (exists, may_create, may_use, public) {
        (true, _, true, false) => (format!("{table} exists"), Usable::Yes),
        (true, _, true, true) => (
            format!(
                "every user of the database has rights on {table}; run: REVOKE ALL ON {table} FROM PUBLIC"
            ),
            Usable::No,
        ),
        (true, _, false, _) => (
            format!(
                "{} lacks rights; run: GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO this user",
                address.user
            ),
            Usable::No,
        ),
        (false, true, ..) => (format!("{table} is created with the first document"), Usable::Yes),
        (false, false, ..) => {
            (format!("{table} is missing, and this user may not create it; {advice}"), Usable::No)
        }
    };
    finding("table", found, usable)
}

/// Sends a notification to itself. A pooler may lose it.
async fn news_arrive(address: &Arc<Address>, place: &Place, session: &Session) -> Finding {
    let arrived = Arc::new(Notify::new());
    let notify = Arc::clone(&arrived);
    let wake: News = Arc::new(move || notify.notify_one());
    let trial = async {
        let listener = news::open(address, &place.channel, &wake).await?;
        let sent = session
            .client
            .query_typed("SELECT pg_catalog.pg_notify($1, '')", &[(&place.channel, Type::TEXT)])
            .await;
        sent.map_err(|error| session.failure(&error))?;
        let got = timeout(NEWS_TIMEOUT, arrived.notified()).await.is_ok();
        drop(listener);
        Ok::<_, Failure>(got)
    };
    match trial.await {
        Ok(true) => finding("news", "a notification arrives at once", Usable::Yes),
        Ok(false) => finding(
            "news",
            "no notification arrives, as through a pooler in transaction mode: changes of other nodes wait for \
             a poll",
            Usable::WithLimit,
        ),
        Err(failure) => finding("news", format!("no LISTEN: {failure}"), Usable::WithLimit),
    }
}
