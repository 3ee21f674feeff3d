//! The channels of tokio that the hand-over uses, on the primitives of loom, as far as it uses them
//! and as their documentation says. Each step that others can see is one lock, and nothing else is.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::{Mutex, MutexGuard, Notify};

/// Polls a future whenever it is woken, on this thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Signal(Notify);
    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
    }
    let signal = Arc::new(Signal(Notify::new()));
    let waker = Waker::from(signal.clone());
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => signal.0.wait(),
        }
    }
}

/// Locks it, unless loom has given up: what is dropped on its way out must not ask it for a lock.
fn lock_at_end<T>(state: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    (!std::thread::panicking()).then(|| state.lock().unwrap())
}

/// Nothing comes any more, or nothing takes it.
#[derive(Debug)]
pub(super) struct Gone;

/// A bounded channel. A sender first takes a place and then uses it, in two steps: a receiver that
/// closes between them finds nothing yet, and only waiting until nothing can come finds it all.
pub(super) mod mpsc {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::*;

    struct State<T> {
        queue: VecDeque<T>,
        places: usize,
        free: usize,
        is_closed: bool,
        has_sender: bool,
        waiting: Vec<Waker>,
        receiver: Option<Waker>,
    }

    impl<T> State<T> {
        fn take(&mut self) -> Option<T> {
            let taken = self.queue.pop_front()?;
            self.free += 1;
            self.waiting.drain(..).for_each(Waker::wake);
            Some(taken)
        }

        fn wake_receiver(&mut self) {
            self.receiver.take().into_iter().for_each(Waker::wake);
        }
    }

    pub(in super::super) struct Sender<T>(Arc<Senders<T>>);

    /// All of them.
    struct Senders<T>(Arc<Mutex<State<T>>>);

    pub(in super::super) struct Receiver<T>(Arc<Mutex<State<T>>>);

    pub(in super::super) fn channel<T>(places: usize) -> (Sender<T>, Receiver<T>) {
        let state = Arc::new(Mutex::new(State {
            queue: VecDeque::new(),
            places,
            free: places,
            is_closed: false,
            has_sender: true,
            waiting: Vec::new(),
            receiver: None,
        }));
        (Sender(Arc::new(Senders(state.clone()))), Receiver(state))
    }

    impl<T> Sender<T> {
        /// Takes a place; an error if the channel is closed, and nothing while there is none.
        fn reserve(&self, waker: Option<&Waker>) -> Poll<Result<(), Gone>> {
            let mut state = self.0.0.lock().unwrap();
            if state.is_closed {
                return Poll::Ready(Err(Gone));
            }
            if state.free > 0 {
                state.free -= 1;
                return Poll::Ready(Ok(()));
            }
            state.waiting.extend(waker.cloned());
            Poll::Pending
        }

        fn push(&self, value: T) {
            let mut state = self.0.0.lock().unwrap();
            state.queue.push_back(value);
            state.wake_receiver();
        }

        pub(in super::super) async fn send(&self, value: T) -> Result<(), Gone> {
            poll_fn(|context| self.reserve(Some(context.waker()))).await?;
            self.push(value);
            Ok(())
        }

        /// Sends if there is a place now; else the value is dropped.
        pub(in super::super) fn try_send(&self, value: T) {
            if let Poll::Ready(Ok(())) = self.reserve(None) {
                self.push(value);
            }
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Senders<T> {
        fn drop(&mut self) {
            let Some(mut state) = lock_at_end(&self.0) else { return };
            state.has_sender = false;
            state.wake_receiver();
        }
    }

    impl<T> Receiver<T> {
        /// Waits for a value; none when none can come any more.
        pub(in super::super) fn blocking_recv(&mut self) -> Option<T> {
            block_on(poll_fn(|context| {
                let mut state = self.0.lock().unwrap();
                if let Some(value) = state.take() {
                    return Poll::Ready(Some(value));
                }
                let is_idle = state.free == state.places;
                if !state.has_sender || (state.is_closed && is_idle) {
                    return Poll::Ready(None);
                }
                state.receiver = Some(context.waker().clone());
                Poll::Pending
            }))
        }

        pub(in super::super) fn try_recv(&mut self) -> Result<T, Gone> {
            self.0.lock().unwrap().take().ok_or(Gone)
        }

        pub(in super::super) fn close(&mut self) {
            let mut state = self.0.lock().unwrap();
            state.is_closed = true;
            state.waiting.drain(..).for_each(Waker::wake);
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let Some(mut state) = lock_at_end(&self.0) else { return };
            state.is_closed = true;
            state.waiting.drain(..).for_each(Waker::wake);
            let left = std::mem::take(&mut state.queue);
            drop(state); // what is left may have a receiver, which is told by a lock of its own
            drop(left);
        }
    }
}

/// A channel for one value.
pub(super) mod oneshot {
    use std::pin::Pin;

    use super::*;

    struct State<T> {
        value: Option<T>,
        is_closed: bool,
        is_sent: bool,
        receiver: Option<Waker>,
    }

    /// None once it was used.
    pub(in super::super) struct Sender<T>(Option<Arc<Mutex<State<T>>>>);

    pub(in super::super) struct Receiver<T>(Arc<Mutex<State<T>>>);

    pub(in super::super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let state = State { value: None, is_closed: false, is_sent: false, receiver: None };
        let state = Arc::new(Mutex::new(state));
        (Sender(Some(state.clone())), Receiver(state))
    }

    impl<T> Sender<T> {
        fn end(&mut self, value: Option<T>) -> Result<(), Option<T>> {
            let Some(state) = self.0.take() else { return Ok(()) };
            let Some(mut state) = lock_at_end(&state) else { return Ok(()) };
            if state.is_closed {
                return Err(value);
            }
            state.value = value;
            state.is_sent = true;
            state.receiver.take().into_iter().for_each(Waker::wake);
            Ok(())
        }

        pub(in super::super) fn send(mut self, value: T) -> Result<(), T> {
            self.end(Some(value)).map_err(|back| back.expect("it comes back"))
        }

        pub(in super::super) fn is_closed(&self) -> bool {
            self.0.as_ref().is_none_or(|state| state.lock().unwrap().is_closed)
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            drop(self.end(None));
        }
    }

    impl<T> Receiver<T> {
        pub(in super::super) fn close(&mut self) {
            self.0.lock().unwrap().is_closed = true;
        }

        pub(in super::super) fn try_recv(&mut self) -> Result<T, Gone> {
            self.0.lock().unwrap().value.take().ok_or(Gone)
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, Gone>;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            let mut state = self.0.lock().unwrap();
            match state.value.take() {
                Some(value) => Poll::Ready(Ok(value)),
                None if state.is_sent => Poll::Ready(Err(Gone)),
                None => {
                    state.receiver = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let Some(mut state) = lock_at_end(&self.0) else { return };
            state.is_closed = true;
        }
    }
}

/// A value that is looked at.
pub(super) mod watch {
    use super::*;

    pub(in super::super) struct Sender<T>(Arc<Mutex<T>>);

    pub(in super::super) struct Receiver<T>(Arc<Mutex<T>>);

    pub(in super::super) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
        let value = Arc::new(Mutex::new(value));
        (Sender(value.clone()), Receiver(value))
    }

    impl<T> Sender<T> {
        pub(in super::super) fn send_replace(&self, value: T) -> T {
            std::mem::replace(&mut self.0.lock().unwrap(), value)
        }
    }

    impl<T> Receiver<T> {
        pub(in super::super) fn borrow(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        /// The writer here always says how it has ended.
        pub(in super::super) fn has_changed(&self) -> Result<(), Gone> {
            Ok(())
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }
}
