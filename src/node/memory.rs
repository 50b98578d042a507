//! What a node remembers over a restart besides its queue: what it learned of sites, and what it
//! knows of tenants.

use crate::base::random;
use crate::base::time::Clock;
use crate::config::Config;
use crate::control::small_file;
use crate::deliver::core::Core;
use crate::observe::node as tell;
use crate::policy::feedback::learned::Learned;
use crate::receive::tenants::{Alert, Book, Tenants};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// What was learned of sites, in `data_dir`.
const LEARNED: &str = "learned.json";
/// What is known of tenants.
const TENANTS: &str = "tenants.json";
/// How often they are written.
const EVERY: Duration = Duration::from_secs(60);

/// The parts that remember.
pub(super) struct Memory {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) tenants: Arc<Tenants>,
    dir: PathBuf,
    clock: Clock,
}

/// What is written.
#[derive(Default)]
struct Kept {
    learned: Learned,
    book: Book,
}

impl Memory {
    /// Both as the last run left them.
    pub(super) fn recall(config: &Arc<Config>, clock: &Clock, alerts: mpsc::Sender<Alert>) -> Self {
        let mut core = Core::new(Arc::clone(config), random::from_system(), clock.now());
        core.remember(read(&config.data_dir, LEARNED), clock.now());
        let tenants = Tenants::new(alerts);
        tenants.remember(read(&config.data_dir, TENANTS));
        Self {
            core: Arc::new(Mutex::new(core)),
            tenants: Arc::new(tenants),
            dir: config.data_dir.clone(),
            clock: clock.clone(),
        }
    }

    /// Writes it now and then, for as long as the node runs.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut before = Kept::default();
        loop {
            tokio::time::sleep(EVERY).await;
            let memory = Arc::clone(&self);
            let written = tokio::task::spawn_blocking(move || memory.write(&before)).await;
            let Ok(now) = written else { return };
            before = now;
        }
    }

    /// Writes it for the last time. Blocks on the disk.
    pub(super) fn write_all(&self) {
        self.write(&Kept::default());
    }

    /// Writes what is not the same as before. A disk that is full takes it later.
    fn write(&self, before: &Kept) -> Kept {
        let learned = {
            let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            core.learned(self.clock.now())
        };
        let book = self.tenants.book();
        if !learned.is_as(&before.learned) {
            self.write_file(LEARNED, &learned);
        }
        if book != before.book {
            self.write_file(TENANTS, &book);
        }
        Kept { learned, book }
    }

    fn write_file(&self, file: &str, what: &impl Serialize) {
        if let Err(error) = small_file::write(&self.dir, file, what) {
            tell::not_kept(&self.dir.join(file), &error);
        }
    }
}

/// What an earlier run kept in this file. Not to know it costs a few minutes of caution, or gives a
/// tenant its allowance anew: a damaged file is told of, and that is all.
fn read<T: Default + DeserializeOwned>(dir: &Path, file: &str) -> T {
    small_file::read(dir, file).unwrap_or_else(|error| {
        let aside = small_file::put_aside(dir, file);
        tell::unreadable(&dir.join(file), &error, aside.as_deref());
        T::default()
    })
}
