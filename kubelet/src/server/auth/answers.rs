//! Answers of the API server, kept for a while.
//!
//! Who asks for what is being asked already waits for that answer. The question goes on when who asked has gone: its
//! answer is kept for the next.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;

/// Most answers that are kept: a node talks to few, and what is not kept is asked again.
const MOST: usize = 1024;
/// The longest that is asked for one answer (upstream's `sharedLookupTimeout`).
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
pub(super) type Why = Arc<str>;
/// An answer that came, or not; none yet.
type Flight<A> = watch::Receiver<Option<Result<A, Why>>>;

/// Answers by what was asked. Cheap to clone.
pub(super) struct Answers<A> {
    clock: Clock,
    inside: Arc<Mutex<Inside<A>>>,
}

struct Inside<A> {
    kept: HashMap<Vec<u8>, Kept<A>>,
    asked: HashMap<Vec<u8>, Flight<A>>,
}

struct Kept<A> {
    answer: A,
    /// On the monotonic clock.
    until: Duration,
}

impl<A> Clone for Answers<A> {
    fn clone(&self) -> Self {
        Self {
            clock: self.clock.clone(),
            inside: self.inside.clone(),
        }
    }
}

impl<A: Clone + Send + Sync + 'static> Answers<A> {
    pub(super) fn new(clock: Clock) -> Self {
        let inside = Inside {
            kept: HashMap::new(),
            asked: HashMap::new(),
        };
        Self {
            clock,
            inside: Arc::new(Mutex::new(inside)),
        }
    }

    /// The answer to `question`: the one that is kept, or what `ask` brings, with how long it holds. What fails is not
    /// kept.
    ///
    /// # Errors
    /// With why nobody answered.
    pub(super) async fn get<F>(&self, question: &[u8], ask: F) -> Result<A, Why>
    where
        F: Future<Output = Result<(A, Duration), Why>> + Send + 'static,
    {
        let mut flight = match self.look(question, ask) {
            Ok(answer) => return Ok(answer),
            Err(flight) => flight,
        };
        let answered = flight.wait_for(Option::is_some).await;
        match answered.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            _ => Err("the question was given up".into()),
        }
    }

    /// The answer that is kept, or one that is on its way.
    fn look<F>(&self, question: &[u8], ask: F) -> Result<A, Flight<A>>
    where
        F: Future<Output = Result<(A, Duration), Why>> + Send + 'static,
    {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if let Some(kept) = inside.kept.get(question).filter(|kept| kept.until > now) {
            return Ok(kept.answer.clone());
        }
        if let Some(flight) = inside.asked.get(question) {
            return Err(flight.clone());
        }
        let (told, flight) = watch::channel(None);
        inside.asked.insert(question.to_vec(), flight.clone());
        let landing = Landing {
            answers: self.clone(),
            question: question.to_vec(),
        };
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, ask).await;
            let late = || Err("no answer within 30 seconds".into());
            let answer = answered.unwrap_or_else(|_| late());
            if let Ok((answer, holds)) = &answer {
                landing.keep(answer.clone(), *holds);
            }
            // First of all nobody joins what is over.
            drop(landing);
            // Whoever asked may have gone.
            let _ = told.send(Some(answer.map(|(answer, _)| answer)));
        });
        Err(flight)
    }
}

/// Ends a question, however it ends.
struct Landing<A: Clone + Send + Sync + 'static> {
    answers: Answers<A>,
    question: Vec<u8>,
}

impl<A: Clone + Send + Sync + 'static> Landing<A> {
    fn keep(&self, answer: A, holds: Duration) {
        if holds.is_zero() {
            return;
        }
        let now = self.answers.clock.monotonic();
        let inside = &self.answers.inside;
        let mut inside = inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.kept.len() >= MOST {
            inside.kept.retain(|_, kept| kept.until > now);
        }
        if inside.kept.len() >= MOST {
            let soonest = inside.kept.iter().min_by_key(|(_, kept)| kept.until);
            if let Some(question) = soonest.map(|(question, _)| question.clone()) {
                inside.kept.remove(&question);
            }
        }
        let until = now + holds;
        inside
            .kept
            .insert(self.question.clone(), Kept { answer, until });
    }
}

impl<A: Clone + Send + Sync + 'static> Drop for Landing<A> {
    fn drop(&mut self) {
        let inside = &self.answers.inside;
        let mut inside = inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.asked.remove(&self.question);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting(
        asked: &Arc<AtomicUsize>,
        answer: Result<(u8, Duration), Why>,
    ) -> impl Future<Output = Result<(u8, Duration), Why>> + Send + 'static {
        let asked = asked.clone();
        async move {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_and_a_failure_not_at_all() {
        let answers = Answers::new(Clock::system());
        let asked = Arc::new(AtomicUsize::new(0));
        let minute = Duration::from_secs(60);
        for _ in 0..3 {
            let answer = answers.get(b"a", counting(&asked, Ok((7, minute)))).await;
            assert_eq!(answer, Ok(7));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let other = answers.get(b"b", counting(&asked, Ok((8, minute)))).await;
        assert_eq!(other, Ok(8));
        tokio::time::advance(minute).await;
        let later = answers
            .get(b"a", counting(&asked, Ok((9, Duration::ZERO))))
            .await;
        assert_eq!(later, Ok(9), "the first has expired");
        for expected in ["no", "neither"] {
            let failed = answers
                .get(b"a", counting(&asked, Err(expected.into())))
                .await;
            assert_eq!(failed, Err(expected.into()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        let inside = answers.inside.lock().unwrap();
        assert!(inside.asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_is_asked_for_all_who_wait() {
        let answers = Answers::new(Clock::system());
        let asked = Arc::new(AtomicUsize::new(0));
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (answers, asked) = (answers.clone(), asked.clone());
            waiting.spawn(async move {
                answers
                    .get(b"a", counting(&asked, Ok((1, Duration::ZERO))))
                    .await
            });
        }
        // The first goes away; what it began goes on.
        waiting.spawn(async { Ok(1) });
        while let Some(answer) = waiting.join_next().await {
            assert_eq!(answer.unwrap(), Ok(1));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_nobody_answers_is_given_up() {
        let answers: Answers<u8> = Answers::new(Clock::system());
        let never = answers.get(b"a", std::future::pending()).await;
        assert_eq!(never, Err("no answer within 30 seconds".into()));
        let again = answers.get(b"a", async { Ok((1, Duration::ZERO)) }).await;
        assert_eq!(again, Ok(1));
        let gone = tokio::time::timeout(
            Duration::from_millis(1),
            answers.get(b"b", counting(&Arc::default(), Ok((2, PATIENCE)))),
        );
        assert!(gone.await.is_err());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let kept = answers.get(b"b", async { Err("not asked".into()) }).await;
        assert_eq!(kept, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let answers = Answers::new(Clock::system());
        for n in 0..2 * MOST {
            let holds = Duration::from_secs(1000 + n as u64);
            let question = n.to_le_bytes();
            let answer = answers.get(&question, async move { Ok((n, holds)) });
            assert_eq!(answer.await, Ok(n));
        }
        assert_eq!(answers.inside.lock().unwrap().kept.len(), MOST);
        let newest = 2 * MOST - 1;
        let question = newest.to_le_bytes();
        let kept = answers.get(&question, async { Err("not asked".into()) });
        assert_eq!(kept.await, Ok(newest));
    }
}
