//! Where hosted teachers work: one small asynchronous runtime for all of a run.

use crate::exec::RunError;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use tokio::runtime::{Builder, Handle, Runtime};

/// Calls wait most of the time: two threads move thousands of them.
const THREADS: usize = 2;

/// The runtime. Tasks that are left when it goes away are dropped.
pub struct Office(Option<Runtime>);

impl Office {
    pub fn open() -> Result<Self, RunError> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("teachers").enable_all().build();
        let runtime =
            runtime.map_err(|e| RunError::failed("no-thread", format!("cannot start to ask teachers: {e}")))?;
        Ok(Self(Some(runtime)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken when dropped").handle()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What came first.
pub enum First<A, B> {
    Left(A),
    Right(B),
}

/// Waits for two things; when both are there the first one counts.
pub async fn first<A: Future, B: Future>(a: A, b: B) -> First<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(First::Left(value)),
        Poll::Pending => b.as_mut().poll(cx).map(First::Right),
    })
    .await
}
