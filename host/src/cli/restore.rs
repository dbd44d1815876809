//! `optoken restore`: puts a backup in the place of the token store, with a new operator token.
//!
//! The order keeps one state whole at every moment: the new token is saved or shown, then the store
//! is replaced in one step, then the high-water mark follows.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use optoken_protocol::timestamp::rfc3339;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::authority::{Authority, CatalogPosition, HighWaterMark};
use crate::cli::create::staged_file::OutputFile;
use crate::cli::file_store::{FileStore, RestoreContinuity};
use crate::cli::output_file::{confirm_overwrite, resolve_output_path};
use crate::cli::prompt::ask;
use crate::cli::stderr::{print_stderr, warn};
use crate::program;
use crate::secret::Secret;
use crate::store::remote::RemoteStore;
use crate::store::remote::probe::{Extent, probe};
use crate::store::sqlite::copies;
use crate::store::{Entry, MemoryStore, Store, StoreError, SwapOutcome, Version, relocation};
use crate::token::{OPERATOR, TokenInfo, now};
use crate::visible_text::{escape_json, one_line};

/// How often a write to a store on other machines is repeated whose outcome is unknown.
const SWAP_ATTEMPTS: usize = 3;

/// Put a backup in the place of the token store, with a new operator token.
///
/// Refuses while a server uses a file. Lists the tokens that will be accepted, and asks before it
/// changes anything. The operator token of the backup is replaced, so that no old one comes back.
/// Named tokens of the backup are accepted again, also those deleted since.
///
/// In a store that servers on several machines share, only the very state is replaced that was
/// read. Servers that have seen a newer one refuse all tokens until they are started again with
/// --accept-catalog-at: stop them before, or restart them after.
///
/// A backup that is older than the server has seen needs --accept-catalog-at with its sequence.
///
/// Where no terminal is, add --yes: a question without an answer ends the command without a change.
/// --yes also replaces an existing --output-file.
///
/// After an interruption the store is the old one or the restored one. With --output-file FILE, the
/// operator token of the restored one is in FILE, or in FILE.staged if FILE did not follow.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Restore, and save the new operator token:
    {program} restore --data-dir /var/lib/optoken --output-file operator-token tokens.db
  Restore an older state, of which this command has printed the sequence:
    {program} restore --accept-catalog-at 7 --output-file operator-token tokens.db
  Restore into a store that servers on several machines share:
    {program} restore --store s3://bucket/optoken --output-file operator-token tokens.db"))]
pub(crate) struct Restore {
    /// The backup: a file of `backup`, a copy of tokens.db, or a backup by SQLite
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Save the new operator token to this file, with mode 0600, instead of printing it
    ///
    /// An existing file is replaced after a question, or with --yes; JSON with a `token` stays
    /// JSON.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Print one JSON object instead of text: the token, or the file that holds it
    ///
    /// The object with the token is printed before the store is replaced. Exit code 0 means that
    /// the store is replaced.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: FileStore,

    #[command(flatten)]
    continuity: RestoreContinuity,
}

/// What is restored.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    store: &'a str,
    catalog_id: &'a str,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_to: Option<&'a str>,
}

impl Summary<'_> {
    fn print(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let json = Zeroizing::new(serde_json::to_string(self)?);
        writeln!(stdout, "{}", escape_json(&json))?;
        stdout.flush()
    }
}

/// A state that was read, and the authority over it.
struct Copy {
    store: Arc<MemoryStore>,
    authority: Authority,
    position: CatalogPosition,
}

/// Where the backup is put.
enum Target {
    /// The file of a database.
    File(PathBuf),
    /// A store on other machines.
    Remote(Arc<dyn RemoteStore>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Remote(store) => f.write_str(store.address()),
        }
    }
}

impl Target {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Remote(_) => None,
        }
    }

    /// Checks that the target can be replaced. Returns what it holds, or why that cannot be read;
    /// `None` if it is empty.
    fn examine(&self) -> anyhow::Result<Option<Result<Entry, String>>> {
        match self {
            Self::File(path) => {
                copies::ensure_unused(path)?;
                Ok(match path.try_exists() {
                    Ok(false) => None,
                    _ => Some(copies::read(path).map_err(|error| error.to_string())),
                })
            }
            Self::Remote(store) => {
                let failed = || format!("cannot use the token store {self}");
                let report = probe(&**store, Extent::Start).with_context(failed)?;
                if let Some(refusal) = report.refusal() {
                    bail!("{}: {}: {}", failed(), refusal.check, refusal.found);
                }
                Ok(store.load().with_context(failed)?.map(Ok))
            }
        }
    }

    /// Puts this document in the place of the state with this version, which was read before.
    fn install(&self, expected: Option<&Version>, document: &str) -> anyhow::Result<()> {
        match self {
            Self::File(path) => {
                copies::install(path, document).context("nothing was changed")?;
                Ok(())
            }
            Self::Remote(store) => swap(&**store, expected, document),
        }
    }
}

/// Replaces the document of this version.
fn swap(store: &dyn Store, expected: Option<&Version>, document: &str) -> anyhow::Result<()> {
    let mut doubt = None;
    for _ in 0..SWAP_ATTEMPTS {
        match store.swap(expected, document) {
            Ok(SwapOutcome::Swapped(_)) => return Ok(()),
            Ok(SwapOutcome::Stale) if doubt.is_none() => bail!(
                "the token store was changed since it was read, and nothing was replaced: stop its servers, and try again"
            ),
            Err(StoreError::Unavailable(error)) if doubt.is_none() => bail!("{error}; nothing was changed"),
            Ok(SwapOutcome::Stale) => {}
            Err(StoreError::Unavailable(error) | StoreError::UnknownOutcome(error)) => doubt = Some(error),
        }
        if matches!(store.load(), Ok(Some(entry)) if entry.document == document) {
            return Ok(());
        }
    }
    bail!(
        "it is unknown whether the backup was restored, because {}: check which operator token is accepted, and keep the new \
         one until then",
        doubt.unwrap_or_else(|| "its answer was lost".to_owned())
    )
}

impl Restore {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let target = match self.storage.0.remote()? {
            Some(store) => Target::Remote(store),
            None => Target::File(self.storage.0.place()?),
        };
        let backup = read_copy(&self.file)
            .with_context(|| format!("cannot restore {}: nothing was changed", self.file.display()))?;
        let found = target.examine().context("nothing was changed")?;
        self.check_relocation(&target, &backup, found.as_ref())?;
        let current = found.as_ref().map(|found| match found {
            Ok(entry) => copy_of(&entry.document),
            Err(error) => Err(anyhow!("{error}")),
        });
        let mark = self.continuity.0.mark(&self.storage.0, target.file())?;
        let mark = mark.context("the token store is in no file")?;
        let mark = HighWaterMark::open(&mark, self.continuity.0.accepted().is_some())?;
        let accepted = self.check_age(&backup, current.as_ref(), &mark)?;
        describe(&backup, current.as_ref())?;
        let output = match &self.output_file {
            Some(file) => Some(resolve_output_path(file)?),
            None => None,
        };
        if let Some(output) = &output {
            confirm_overwrite(output, self.yes)?;
        }
        if !self.yes && ask("Enter 'yes' to replace the token store by this backup")? != "yes" {
            bail!("Cannot restore without confirmation (answer 'yes', or use --yes); nothing was changed");
        }
        let secret = replace_operator(&backup, &self.file)?;
        let position = backup.authority.position()?.context("the backup has no audit record")?;
        let (store, saved_to) = (target.to_string(), output.as_ref().map(|path| path.display().to_string()));
        let summary = Summary {
            store: &store,
            catalog_id: &position.catalog_id,
            sequence: position.sequence,
            token: secret.as_ref().filter(|_| output.is_none()).map(Secret::expose),
            saved_to: saved_to.as_deref().filter(|_| secret.is_some()),
        };
        let saved = match (&output, &secret) {
            (Some(path), Some(secret)) => {
                let output = OutputFile::lock(path)?;
                output.check_writable()?;
                output.write_staged(secret, secret)?;
                Some(output)
            }
            (None, Some(secret)) => {
                self.show(secret, &summary)?;
                None
            }
            (_, None) => None,
        };
        let document = backup.store.load()?.context("the backup has no catalog")?.document;
        let version = found.and_then(Result::ok).map(|entry| entry.version);
        target.install(version.as_ref(), &document)?;
        if let (Some(output), Some(secret)) = (saved, &secret) {
            output.install(secret)?;
            output.remove_staged();
            print_stderr(&format!("Token saved to: {}", output.path.display()));
        }
        match accepted {
            Some(sequence) => {
                let replaced = current.and_then(Result::ok).map_or(0, |current| current.position.sequence);
                mark.accept(sequence, Some(&position), replaced)?;
            }
            None => mark.advance(&position),
        }
        drop(mark);
        print_stderr(&format!("Restored {position} to: {target}"));
        if let (Target::Remote(_), Some(_)) = (&target, accepted) {
            print_stderr(&format!(
                "Other servers on this store have seen a newer state and refuse all tokens. Start each of them once with \
                 --accept-catalog-at {}, or with the sequence that its start error names.",
                position.sequence
            ));
        }
        if self.json && summary.token.is_none() {
            summary
                .print()
                .context("the backup is restored, but that cannot be written to standard output")?;
        }
        Ok(())
    }

    /// Checks that the store is not one that the tokens have left, or have not arrived in, unless
    /// the operator accepts the backup in spite of that.
    fn check_relocation(
        &self,
        target: &Target,
        backup: &Copy,
        found: Option<&Result<Entry, String>>,
    ) -> anyhow::Result<()> {
        let refusal = found.and_then(|found| relocation::refusal(&found.as_ref().ok()?.document));
        let sequence = backup.position.sequence;
        match refusal {
            Some(refusal) if self.continuity.0.accepted() != Some(sequence) => bail!(
                "{target}: {refusal}; nothing was changed; if the other store is lost and the backup is meant for this one, \
                 add --accept-catalog-at {sequence}"
            ),
            _ => Ok(()),
        }
    }

    /// Checks that the backup is no older than what this server has seen. Returns the sequence that
    /// the operator accepts in spite of that.
    fn check_age(
        &self,
        backup: &Copy,
        current: Option<&anyhow::Result<Copy>>,
        mark: &HighWaterMark,
    ) -> anyhow::Result<Option<u64>> {
        let seen = [mark.newest(), current.and_then(|copy| Some(copy.as_ref().ok()?.position.clone()))];
        let sequence = backup.position.sequence;
        for seen in seen.into_iter().flatten() {
            let Err(refusal) = backup.authority.check_continues(&seen)? else { continue };
            let difference = match refusal.reason() {
                "other_catalog" => format!("this server has the catalog {}", seen.catalog_id),
                "diverged" => {
                    format!("it is another history than that of this server, at sequence {}", seen.sequence)
                }
                _ => format!("this server has seen sequence {}", seen.sequence),
            };
            if self.continuity.0.accepted() != Some(sequence) {
                bail!(
                    "the backup has catalog {} at sequence {sequence}, and {difference}: tokens that were revoked since \
                     would be accepted again; nothing was changed; if that is meant, add --accept-catalog-at {sequence}",
                    backup.position.catalog_id
                );
            }
            ensure!(
                mark.accepted_at(sequence).is_none(),
                "--accept-catalog-at {sequence} was used before and accepts a sequence once; nothing was changed; if it is \
                 meant again, remove the high-water mark {} after you have checked the backup",
                mark.path().display()
            );
            return Ok(Some(sequence));
        }
        Ok(None)
    }

    /// Prints the new token, and asks whether it is saved.
    fn show(&self, secret: &Secret, summary: &Summary<'_>) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let printed = if self.json {
            drop(stdout);
            summary.print()
        } else {
            writeln!(stdout, "Token: {}", secret.expose()).and_then(|()| stdout.flush())
        };
        printed.context("cannot print the new operator token; nothing was changed")?;
        print_stderr(
            "This is the new operator token. It is not shown again, and is in force after the next step.",
        );
        if !self.yes && ask("Enter 'yes' when it is saved")? != "yes" {
            bail!("Cannot restore before the new operator token is saved; nothing was changed");
        }
        Ok(())
    }
}

/// Reads a file with a catalog.
fn read_copy(file: &Path) -> anyhow::Result<Copy> {
    copy_of(&copies::read(file)?.document)
}

/// Reads a catalog.
fn copy_of(document: &str) -> anyhow::Result<Copy> {
    if let Some(refusal) = relocation::refusal(document) {
        bail!("it holds no catalog: {refusal}");
    }
    let store = Arc::new(MemoryStore::default());
    store.swap(None, document)?;
    let shared: Arc<dyn Store> = Arc::clone(&store) as _;
    let authority = Authority::builder_shared(shared).build().context("cannot read the catalog")?;
    let position = authority.position()?.context("its catalog has no audit record")?;
    Ok(Copy { store, authority, position })
}

/// Replaces the operator token of the backup; `None` if it has none.
fn replace_operator(backup: &Copy, file: &Path) -> anyhow::Result<Option<Secret>> {
    if backup.authority.status()?.is_none() {
        warn("the backup has no operator token: create one after the start, before other users can");
        return Ok(None);
    }
    Ok(Some(backup.authority.restore(&format!("restore {}", file.display()))?.secret))
}

/// Lists the tokens that the restore changes.
fn describe(backup: &Copy, current: Option<&anyhow::Result<Copy>>) -> anyhow::Result<()> {
    let tokens = backup.authority.list_tokens()?;
    let current = match current {
        Some(Ok(current)) => Some(current.authority.list_tokens()?),
        Some(Err(error)) => {
            warn(&format!("the token store that is there cannot be read: {error:#}"));
            None
        }
        None => None,
    };
    print_stderr(&format!("The backup has {}, with these tokens:", backup.position));
    for token in &tokens {
        let in_use = |other: &TokenInfo| other.sha512 == token.sha512;
        let state = match token.expiry {
            _ if token.name == OPERATOR => "will be replaced".to_owned(),
            Some(at) if at <= now() => format!("expired {}", rfc3339(at)),
            _ if current.as_ref().is_some_and(|current| !current.iter().any(in_use)) => {
                "was deleted since, and will be accepted again".to_owned()
            }
            Some(at) => format!("will be accepted until {}", rfc3339(at)),
            None => "will be accepted".to_owned(),
        };
        print_stderr(&format!("  {}: {state}", one_line(&token.name)));
    }
    for token in current.iter().flatten().filter(|token| token.name != OPERATOR) {
        if !tokens.iter().any(|other| other.sha512 == token.sha512) {
            print_stderr(&format!("  {}: is not in the backup, and will be refused", one_line(&token.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// What happens to a swap.
    enum Fault {
        None,
        /// It is carried out, and its answer is lost.
        AnswerLost,
        /// It is not carried out, and nothing is known of it.
        NotDone,
        /// Nothing is written, for certain.
        Unavailable,
    }

    struct Faulty {
        store: MemoryStore,
        faults: Mutex<VecDeque<Fault>>,
    }

    impl Store for Faulty {
        fn load(&self) -> Result<Option<Entry>, StoreError> {
            self.store.load()
        }

        fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
            let unknown = || Err(StoreError::UnknownOutcome("a fault".to_owned()));
            match self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None) {
                Fault::None => self.store.swap(expected, document),
                Fault::AnswerLost => {
                    self.store.swap(expected, document)?;
                    unknown()
                }
                Fault::NotDone => unknown(),
                Fault::Unavailable => Err(StoreError::Unavailable("a fault".to_owned())),
            }
        }
    }

    /// Restores `new` over `old` where these faults happen. Returns the error and what is stored.
    fn restored(faults: impl IntoIterator<Item = Fault>, changed_since: bool) -> (String, String) {
        let store = MemoryStore::default();
        let SwapOutcome::Swapped(read) = store.swap(None, "old").unwrap() else { panic!("it is empty") };
        if changed_since {
            store.swap(Some(&read), "changed").unwrap();
        }
        let store = Faulty { store, faults: Mutex::new(faults.into_iter().collect()) };
        let error = swap(&store, Some(&read), "new").err().map(|error| format!("{error:#}"));
        (error.unwrap_or_default(), store.load().unwrap().unwrap().document)
    }

    #[test]
    fn swap_replaces_the_state_that_was_read_and_no_other() {
        use Fault::{AnswerLost, NotDone, Unavailable};
        for faults in
            [vec![], vec![AnswerLost], vec![NotDone], vec![NotDone, AnswerLost], vec![NotDone, Unavailable]]
        {
            let count = faults.len();
            assert_eq!(restored(faults, false), (String::new(), "new".to_owned()), "{count} faults");
        }
        let (error, stored) = restored([], true);
        assert!(error.contains("was changed since it was read, and nothing was replaced"), "{error}");
        assert_eq!(stored, "changed");
        let (error, stored) = restored([Unavailable], false);
        assert_eq!((error.as_str(), stored.as_str()), ("a fault; nothing was changed", "old"));
        for (faults, changed, stored) in
            [(vec![NotDone, NotDone, NotDone], false, "old"), (vec![NotDone], true, "changed")]
        {
            let (error, found) = restored(faults, changed);
            assert!(error.contains("it is unknown whether the backup was restored"), "{error}");
            assert_eq!(found, stored);
        }
    }
}
