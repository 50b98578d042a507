//! A changed configuration file, while the node runs: all of it holds, or nothing.

use crate::base::live::Live;
use crate::base::time::Clock;
use crate::config::Config;
use crate::control;
use crate::control::outlook::Terms;
use crate::deliver::core::Core;
use crate::net::tls;
use crate::observe::node as tell;
use rustls::ServerConfig;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Who has to know.
pub(super) struct Reload {
    /// The file that the node was started with.
    file: PathBuf,
    config: Live<Config>,
    tls: Live<Option<Arc<ServerConfig>>>,
    terms: Live<Terms>,
    core: Arc<Mutex<Core>>,
    /// The dispatcher looks at what follows.
    wake: Arc<Notify>,
    clock: Clock,
}

impl Reload {
    pub(super) fn new(
        (file, config, tls): (PathBuf, Live<Config>, Live<Option<Arc<ServerConfig>>>),
        (core, wake): (&Arc<Mutex<Core>>, &Arc<Notify>),
        clock: &Clock,
    ) -> Self {
        let terms = Arc::new(Terms::from(&*config.get())).into();
        let (core, wake, clock) = (Arc::clone(core), Arc::clone(wake), clock.clone());
        Self { file, config, tls, terms, core, wake, clock }
    }

    /// What the control socket knows of the configuration.
    pub(super) fn terms(&self) -> Live<Terms> {
        self.terms.clone()
    }

    /// For the control socket.
    pub(super) fn by_users(self: &Arc<Self>) -> control::api::Reload {
        let reload = Arc::clone(self);
        let by = |id: u32| format!("user {id}");
        Arc::new(move |user| reload.run(&user.map_or("a user".to_string(), by)))
    }

    /// Reads the file again and puts it in place of what holds. `by` says for the log who wants it.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Lines for people: what is wrong with the file, or what in it takes a restart. Nothing has
    /// changed then.
    pub(super) fn run(&self, by: &str) -> Result<(), String> {
        let done = self.apply();
        match &done {
            Ok(()) => tell::reloaded(&self.file, by),
            Err(why) => tell::not_reloaded(&self.file, by, why),
        }
        done
    }

    fn apply(&self) -> Result<(), String> {
        let config = Config::load(&self.file).map_err(|errors| errors.to_string())?;
        // Also where its files alone have changed.
        let certificate = tls::server_config(&config.tls).map_err(|error| error.to_string())?;
        // Of two at once, the one that read the file last is applied last.
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let fixed = self.config.get().fixed_differences(&config);
        if !fixed.is_empty() {
            let (file, fixed) = (self.file.display(), fixed.join(", "));
            return Err(format!(
                "{file}: {fixed}: changed, which takes a restart; nothing of the file holds yet"
            ));
        }
        let config = Arc::new(config);
        core.reconfigure(Arc::clone(&config), self.clock.now());
        self.terms.set(Arc::new(Terms::from(&*config)));
        self.config.set(config);
        self.tls.set(Arc::new(certificate));
        self.wake.notify_one();
        Ok(())
    }
}
