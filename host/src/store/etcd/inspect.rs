//! What a cluster states about itself.

use serde_json::json;

use crate::store::StoreError;
use crate::store::etcd::document::Call;
use crate::store::etcd::failure::Failure;
use crate::store::etcd::gateway::Answer;
use crate::store::etcd::message::{Members, Range, Status, encode, range};
use crate::store::remote::{Finding, Usable};

/// Asks each member for its state, and the cluster for a read that needs a majority.
pub(super) async fn inspect(call: &Call) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let mut clusters = Vec::new();
    let mut members: Vec<usize> = call.gateway.members().collect();
    members.sort_unstable();
    for member in members {
        let asked = call.gateway.ask(member, "maintenance/status", "{}");
        let status = tokio::time::timeout(call.patience.hedge, asked).await;
        let check = format!("member {}", call.gateway.name(member));
        let status = match status {
            Ok(answer) => state_of(answer),
            Err(_) => Err("no answer in time".to_owned()),
        };
        match status {
            Ok(status) => {
                findings.push(finding_of_member(check, &status));
                clusters.push(status.header.cluster_id);
            }
            Err(fault) => findings.push(Finding { check, found: fault, usable: Usable::WithLimit }),
        }
    }
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        findings.push(Finding {
            check: "one cluster".to_owned(),
            found: "the hosts of the URL belong to several clusters; name the members of one".to_owned(),
            usable: Usable::No,
        });
    }
    let key = call.keys.version();
    let read: Range = {
        let answer = call.read("kv/range", &range(&key)).await?;
        answer.parse().map_err(|reason| call.unavailable(reason))?
    };
    let revision = read.header.revision;
    findings.push(Finding {
        check: "majority".to_owned(),
        found: format!("a majority answers{}", size_of_cluster(call).await),
        usable: Usable::Yes,
    });
    findings.push(compaction(call, &key, &revision).await);
    Ok(findings)
}

fn state_of(answer: Result<Answer, Failure>) -> Result<Status, String> {
    answer.map_err(|failure| failure.to_string())?.parse()
}

fn finding_of_member(check: String, status: &Status) -> Finding {
    let Status { version, database_bytes, is_learner, errors, .. } = status;
    let alarm = |name: &str| errors.iter().any(|error| error.contains(name));
    let (remark, usable) = if alarm("NOSPACE") {
        (
            ", alarm NOSPACE: it refuses writes; run `etcdctl compact`, `etcdctl defrag` and `etcdctl alarm disarm`",
            Usable::No,
        )
    } else if alarm("CORRUPT") {
        (", alarm CORRUPT: its data is damaged; replace this member", Usable::No)
    } else if *is_learner {
        (", a learner, which answers no read of this store", Usable::WithLimit)
    } else {
        ("", Usable::Yes)
    };
    Finding { check, found: format!("etcd {version}, database of {database_bytes} bytes{remark}"), usable }
}

/// Returns what the members know about their number, if the user may read it.
async fn size_of_cluster(call: &Call) -> String {
    let members = call.gateway.read("cluster/member/list", "{}".to_owned(), call.patience).await;
    let Some(Members { members }) = members.ok().and_then(|answer| answer.parse().ok()) else {
        return String::new();
    };
    let voters = members.iter().filter(|member| !member.is_learner).count();
    format!(" ({voters} voting members, {} of which may fail)", voters.saturating_sub(1) / 2)
}

/// Reads at the first revision, which a compaction removes. No request returns the settings of
/// compaction.
async fn compaction(call: &Call, key: &str, revision: &str) -> Finding {
    let check = "compaction".to_owned();
    let first = json!({ "key": encode(key.as_bytes()), "revision": "1" }).to_string();
    let answer = call.gateway.read("kv/range", first, call.patience).await;
    let compacted =
        answer.err().is_some_and(|failure| failure.of_all_members().is_some_and(Failure::is_compacted));
    if compacted {
        let found = "old revisions are removed".to_owned();
        return Finding { check, found, usable: Usable::Yes };
    }
    Finding {
        check,
        found: format!(
            "all {revision} revisions are kept so far; start etcd with --auto-compaction-retention=1h, or old \
             documents fill its database and every write fails"
        ),
        usable: Usable::WithLimit,
    }
}
