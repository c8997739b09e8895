//! The threads of a proxy, each with a runtime of its own.
//!
//! In a simulation they are tasks of the one thread that there is; what a thread has spawned
//! ends with it there as well.

#[cfg(feature = "simulation")]
pub(crate) use simulated::{Thread, spawn};
#[cfg(not(feature = "simulation"))]
pub(crate) use system::{Thread, spawn};

#[cfg(not(feature = "simulation"))]
mod system {
    use std::io;
    use std::thread::{Builder, JoinHandle};

    use tokio::runtime::{self, LocalOptions, LocalRuntime};

    /// A thread.
    pub(crate) struct Thread(JoinHandle<()>);

    impl Thread {
        /// Waits for its end, and says whether it was a good one.
        pub(crate) fn join(self) -> bool {
            self.0.join().is_ok()
        }
    }

    /// Runs a future on a thread and a runtime of its own.
    pub(crate) fn spawn<F, T>(name: &str, make: F) -> io::Result<Thread>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let runtime = || -> io::Result<LocalRuntime> {
            runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
        };
        Builder::new()
            .name(name.to_owned())
            .spawn(move || match runtime() {
                Ok(runtime) => runtime.block_on(make()),
                Err(error) => tracing::error!(%error, "cannot start a runtime"),
            })
            .map(Thread)
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::io;

    use tokio::task::{JoinHandle, LocalSet};

    /// A task, and all that it has spawned.
    pub(crate) struct Thread(JoinHandle<()>);

    impl Thread {
        /// Waits for its end, and says whether it was a good one.
        pub(crate) async fn join(self) -> bool {
            self.0.await.is_ok()
        }
    }

    /// Runs a future beside the others.
    #[expect(clippy::unnecessary_wraps, reason = "a system may refuse a thread")]
    pub(crate) fn spawn<F, T>(_name: &str, make: F) -> io::Result<Thread>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let task = async move { LocalSet::new().run_until(make()).await };
        Ok(Thread(tokio::task::spawn_local(task)))
    }
}
