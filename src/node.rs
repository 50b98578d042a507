//! Layer 7: builds a node from its parts, runs it, stops it.
//!
//! # Order
//! Start: the control socket, listening sockets, then the store (which may take a moment to count
//! its queue; clients wait meanwhile), then everything else. Stop: no new sessions, transactions
//! under way end, the store is closed last. What does not end in time is cut off; nothing is lost
//! by that, only perhaps repeated.

mod memory;
mod reload;
mod watchman;

use self::memory::Memory;
use self::reload::Reload;
use self::watchman::Watchman;
use crate::base::address::Domain;
use crate::base::id::IdGenerator;
use crate::base::live::Live;
use crate::base::random;
use crate::base::time::Clock;
use crate::config::{Config, Engine, Listen, ListenAddress};
use crate::control::{self, Api, Desk, Reception};
use crate::deliver::addresses::Addresses;
use crate::deliver::core::{Core, Event};
use crate::deliver::dispatcher::Dispatcher;
use crate::deliver::shared::{Judge, Shared};
use crate::net::dial::Dialer;
use crate::net::dns::Resolver;
use crate::net::listen::{self, Listener};
use crate::net::tls;
use crate::net::unix::{self, UnixSocket};
use crate::observe::node as tell;
use crate::policy::source::Source;
use crate::receive::http;
use crate::receive::logins::Logins;
use crate::receive::tenants::Tenants;
use crate::receive::{Ingress, Parts};
use crate::store::embedded::{EmbeddedStore, Options};
use crate::store::memory::MemoryStore;
use crate::store::{Handoff, Store};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// Rights of the control socket: only its user.
const CONTROL_MODE: u32 = 0o600;
/// Direct messages on their way to the dispatcher; more go by way of the store.
const HANDOFFS: usize = 1_024;
/// File descriptors besides sessions and connections: the queue, look-ups, the control socket.
const OTHER_FILES: usize = 2_000;
/// What was noticed of tenants, on its way to be carried out.
const ALERTS: usize = 64;
/// News on its way to the dispatcher.
const EVENTS: usize = 4_096;
/// Runs a node on the configuration in this file until SIGTERM or SIGINT; on SIGHUP it reads the
/// file again.
///
/// # Errors
/// A sentence: why it did not start.
pub async fn run(config: Config, file: &Path) -> Result<(), String> {
    let config = Arc::new(config);
    let file = std::path::absolute(file).map_err(|error| error.to_string())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    let _ignoring = ignore_signals().map_err(|error| format!("cannot take signals: {error}"))?;
    take_all_files(&config);
    config.sources.iter().try_for_each(|source| has_addresses(source))?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| format!("cannot create {}: {error}", config.data_dir.display()))?;
    // Before the listeners: whoever finds the node listening can ask it things.
    let socket = unix::bind(&config.control.socket, CONTROL_MODE).await;
    let socket = socket.map_err(|error| error.to_string())?;
    let http = config.http.listen.map(ListenAddress::Tcp);
    let http = http.map(|address| Listen { address, ..Listen::default() });
    let wanted: Vec<Listen> = config.listen.iter().cloned().chain(http).collect();
    let listeners = listen::bind_all(&wanted).await?;
    let clock = Clock::system();
    match config.store.engine {
        Engine::Memory => {
            tell::memory_engine();
            let store = MemoryStore::new(clock.clone());
            serve((config, file), store, clock, listeners, socket, &mut hangup).await
        }
        Engine::Sqlite => {
            let options = Options {
                free_space_min: config.store.free_space_min,
                size_max: (config.store.size_max > 0).then_some(config.store.size_max),
                compress: config.store.compress,
                ..Options::default()
            };
            let (dir, of_store) = (config.data_dir.clone(), clock.clone());
            let opened =
                tokio::task::spawn_blocking(move || EmbeddedStore::open(&dir, of_store, options));
            let store = opened.await.map_err(|error| format!("cannot open the queue: {error}"))?;
            let store = store.map_err(|error| error.to_string())?;
            serve((config, file), store, clock, listeners, socket, &mut hangup).await
        }
    }
}

/// A source can be used where its addresses are this machine's.
fn has_addresses(source: &Source) -> Result<(), String> {
    source.addresses.iter().try_for_each(|address| {
        // Of no use, but for the system's word that it may be had.
        let socket = UdpSocket::bind((*address, 0));
        socket.map(|_| ()).map_err(|error| {
            format!(
                "cannot send from {address} ([sources.{}]): {}; is it an address of this machine?",
                source.name,
                error.kind()
            )
        })
    })
}

/// Takes as many file descriptors as the system lets us have, and tells where that is too few.
fn take_all_files(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it fails, what we had before has to do.
    _ = setrlimit(Resource::Nofile, limit);
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let by_http = config.http.listen.map_or(0, |_| config.http.connections);
    let sessions = config.limits.sessions + by_http;
    let want = sessions + config.delivery.connections + OTHER_FILES;
    if have < want as u64 {
        tell::few_files(have, want);
    }
}

/// The running parts.
struct Running {
    sessions: JoinSet<()>,
    dispatcher: JoinHandle<()>,
    control: JoinHandle<()>,
    memory: Arc<Memory>,
    keeping: JoinHandle<()>,
    reload: Arc<Reload>,
    stop_receiving: watch::Sender<bool>,
    stop_delivering: watch::Sender<bool>,
    stop_control: watch::Sender<bool>,
}

async fn serve<S: Store>(
    (config, file): (Arc<Config>, PathBuf),
    store: S,
    clock: Clock,
    listeners: Vec<Listener>,
    socket: UnixSocket,
    hangup: &mut Signal,
) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let running = start((&config, file), store, &clock, listeners, socket)?;
    tell::started(&config);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let reload = Arc::clone(&running.reload);
                tokio::task::spawn_blocking(move || _ = reload.run("SIGHUP"));
            }
        }
    }
    let limit = config.delivery.shutdown_timeout;
    tell::draining(limit);
    let begun = clock.now();
    let clean = timeout(limit, running.stop()).await.is_ok();
    tell::drained(clock.now().since(begun), clean);
    Ok(())
}

/// Signals that mean something to other daemons are not to end this one.
fn ignore_signals() -> std::io::Result<JoinSet<()>> {
    let kinds = [SignalKind::user_defined1(), SignalKind::user_defined2()];
    let mut ignoring = JoinSet::new();
    for (kind, name) in kinds.into_iter().zip(["USR1", "USR2"]) {
        let mut signals = signal(kind)?;
        ignoring.spawn(async move {
            while signals.recv().await.is_some() {
                tell::signal_ignored(name);
            }
        });
    }
    Ok(ignoring)
}

/// What the parts share.
struct Ground<S> {
    store: S,
    clock: Clock,
    ids: Arc<Mutex<IdGenerator>>,
    config: Live<Config>,
    tls: Live<Option<Arc<ServerConfig>>>,
    core: Arc<Mutex<Core>>,
    tenants: Arc<Tenants>,
    logins: Arc<Logins>,
    desk: Arc<Desk>,
    /// The dispatcher looks at what has changed.
    wake: Arc<Notify>,
}

fn start<S: Store>(
    (config, file): (&Arc<Config>, PathBuf),
    store: S,
    clock: &Clock,
    listeners: Vec<Listener>,
    socket: UnixSocket,
) -> Result<Running, String> {
    let (events, events_out) = mpsc::channel::<Event>(EVENTS);
    let (direct, direct_out) = mpsc::channel::<Handoff>(HANDOFFS);
    let (expected, expected_out) = mpsc::channel::<Domain>(EVENTS);
    let (alerts, alerts_out) = mpsc::channel(ALERTS);
    let [receiving, delivering, controlling] = [(), (), ()].map(|()| watch::channel(false));
    let memory = Arc::new(Memory::recall(config, clock, alerts));
    let ground = ground(config, store, clock, &memory)?;
    let resolver = Arc::new(Resolver::new(config)?);
    let shared = Arc::new(ground.shared(config, events)?);
    let Ground { core, wake, .. } = &ground;
    let (live, tls) = (ground.config.clone(), ground.tls.clone());
    let reload = Arc::new(Reload::new((file, live, tls), (core, wake), clock));
    let control = control::serve(socket, ground.api(config, &reload), turned_true(controlling.1));
    let control = tokio::spawn(control);
    tokio::spawn(ground.watchman().watch(alerts_out));
    let desk = Arc::clone(&ground.desk);
    let expired = move |orders| {
        let desk = Arc::clone(&desk);
        tokio::task::spawn_blocking(move || desk.ended(&orders));
    };
    let dispatcher = Dispatcher {
        shared,
        core: Arc::clone(core),
        resolver,
        wake: Arc::clone(wake),
        expired: Box::new(expired),
        events: events_out,
        direct: direct_out,
        expected: expected_out,
    };
    let dispatcher = tokio::spawn(dispatcher.run(delivering.1));
    let ingress = Arc::new(Ingress::new(ground.into_parts(direct, expected)));
    let sessions = receive(&ingress, config, listeners, &receiving.1)?;
    Ok(Running {
        sessions,
        dispatcher,
        control,
        keeping: tokio::spawn(Arc::clone(&memory).keep()),
        memory,
        reload,
        stop_receiving: receiving.0,
        stop_delivering: delivering.0,
        stop_control: controlling.0,
    })
}

fn ground<S: Store>(
    config: &Arc<Config>,
    store: S,
    clock: &Clock,
    memory: &Memory,
) -> Result<Ground<S>, String> {
    let logins = Logins::new().map_err(|_| "cannot begin: the system has no randomness")?;
    let tls = tls::server_config(&config.tls).map_err(|error| error.to_string())?;
    let (core, wake) = (Arc::clone(&memory.core), Arc::new(Notify::new()));
    Ok(Ground {
        clock: clock.clone(),
        ids: Arc::new(Mutex::new(IdGenerator::after(store.last_id()))),
        store,
        config: Live::from(Arc::clone(config)),
        tls: Live::from(Arc::new(tls)),
        desk: Arc::new(desk(config, &core, &wake, clock)),
        core,
        tenants: Arc::clone(&memory.tenants),
        logins: Arc::new(logins),
        wake,
    })
}

impl<S: Store> Ground<S> {
    /// Of the delivering side.
    fn shared(
        &self,
        config: &Arc<Config>,
        events: mpsc::Sender<Event>,
    ) -> Result<Shared<S>, String> {
        let room_kib = u32::try_from(config.delivery.memory / 1_024).unwrap_or(u32::MAX);
        Ok(Shared {
            store: self.store.clone(),
            config: self.config.clone(),
            clock: self.clock.clone(),
            ids: Arc::clone(&self.ids),
            rng: Mutex::new(random::from_system()),
            dialer: Dialer::new(Arc::clone(config))?,
            addresses: Arc::new(Addresses::default()),
            quotas: self.core.lock().unwrap_or_else(PoisonError::into_inner).quotas(),
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
            events,
            judge: judge(&self.tenants, &self.config, &self.clock),
        })
    }

    /// Of the control socket.
    fn api(&self, config: &Config, reload: &Arc<Reload>) -> Api<S> {
        let reception = Reception {
            config: self.config.clone(),
            tenants: Arc::clone(&self.tenants),
            logins: Arc::clone(&self.logins),
            clock: self.clock.clone(),
        };
        Api {
            store: self.store.clone(),
            clock: self.clock.clone(),
            node: config.hostname.to_string(),
            sites: sites(&self.core, &self.clock),
            terms: reload.terms(),
            desk: Some(Arc::clone(&self.desk)),
            reception: Some(Arc::new(reception)),
            reload: Some(reload.by_users()),
        }
    }

    fn watchman(&self) -> Watchman<S> {
        Watchman {
            store: self.store.clone(),
            config: self.config.clone(),
            clock: self.clock.clone(),
            ids: Arc::clone(&self.ids),
            desk: Arc::clone(&self.desk),
        }
    }

    /// Of the receiving side.
    fn into_parts(self, direct: mpsc::Sender<Handoff>, expected: mpsc::Sender<Domain>) -> Parts<S> {
        let Self { store, config, clock, ids, tls, tenants, logins, .. } = self;
        Parts { store, config, clock, ids, direct, expected, tls, tenants, logins }
    }
}

/// What became of tenants' mail tells of hacked ones.
fn judge(tenants: &Arc<Tenants>, config: &Live<Config>, clock: &Clock) -> Judge {
    let (tenants, config, clock) = (Arc::clone(tenants), config.clone(), clock.clone());
    Box::new(move |tenant, bounced| {
        tenants.concluded(&config.get(), tenant, bounced, clock.now());
    })
}

/// Begins to serve all listeners, of which that for HTTP was bound last.
fn receive<S: Store>(
    ingress: &Arc<Ingress<S>>,
    config: &Config,
    mut listeners: Vec<Listener>,
    stop: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, String> {
    let by_http = listeners.split_off(config.listen.len().min(listeners.len())).pop();
    let serve = |(listener, listen)| Arc::clone(ingress).serve(listener, listen, stop.clone());
    let mut sessions: JoinSet<()> =
        listeners.into_iter().zip(config.listen.clone()).map(serve).collect();
    if let Some(listener) = by_http {
        let api = Arc::new(http::Api::open(Arc::clone(ingress), config)?);
        sessions.spawn(api.serve(listener, stop.clone()));
    }
    Ok(sessions)
}

/// What the control socket shows of the sites.
fn sites(core: &Arc<Mutex<Core>>, clock: &Clock) -> control::api::Sites {
    let (core, clock) = (Arc::clone(core), clock.clone());
    Arc::new(move || core.lock().unwrap_or_else(PoisonError::into_inner).status(clock.now()))
}

/// Where orders are taken: they go to the core, and the dispatcher looks at what follows.
fn desk(
    config: &Config,
    core: &Arc<Mutex<Core>>,
    wake: &Arc<Notify>,
    clock: &Clock,
) -> control::Desk {
    let (obeying, explaining) = (Arc::clone(core), Arc::clone(core));
    let (wake, now, asked) = (Arc::clone(wake), clock.clone(), clock.clone());
    let obey = move |orders| {
        let mut core = obeying.lock().unwrap_or_else(PoisonError::into_inner);
        core.set_orders(orders, now.now());
        wake.notify_one();
    };
    let explain = move |site: &str| {
        let mut core = explaining.lock().unwrap_or_else(PoisonError::into_inner);
        core.explain_site(site, asked.now())
    };
    control::Desk::open(&config.data_dir, clock.clone(), Box::new(obey), Box::new(explain))
}

async fn turned_true(mut stop: watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

impl Running {
    /// Lets what is under way end. Delivering goes on until the last session has handed over its
    /// mail.
    async fn stop(mut self) {
        _ = self.stop_receiving.send(true);
        while self.sessions.join_next().await.is_some() {}
        _ = self.stop_delivering.send(true);
        _ = self.dispatcher.await;
        self.keeping.abort();
        let memory = Arc::clone(&self.memory);
        _ = tokio::task::spawn_blocking(move || memory.write_all()).await;
        _ = self.stop_control.send(true);
        _ = timeout(Duration::from_secs(1), self.control).await;
    }
}
