//! The teachers of a run, each made when it is first asked.

use super::{LocalTeacher, ReplayTeacher, Teacher};
use crate::config::TeacherSource;
use crate::exec::{Lanes, RunError, Stop};
use crate::fetch::Fetcher;
use crate::plan::TeacherInfo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Gives out declared teachers.
pub trait Teachers: Send + Sync {
    fn teacher(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError>;
}

/// For runs that ask nobody.
pub struct NoTeachers;

impl Teachers for NoTeachers {
    fn teacher(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError> {
        let name = &info.decl.name;
        Err(RunError::failed("no-teacher", format!("teacher `{name}` cannot be asked: this run was started without")))
    }
}

/// The teachers of a run: the nodes that name the same one share its limits and its budget.
pub struct Staff {
    lanes: Arc<dyn Lanes>,
    #[expect(dead_code)]
    fetcher: Arc<Fetcher>,
    #[expect(dead_code)]
    stop: Stop,
    hired: Mutex<HashMap<String, Arc<dyn Teacher>>>,
}

impl Staff {
    pub fn new(lanes: Arc<dyn Lanes>, fetcher: Arc<Fetcher>, stop: &Stop) -> Self {
        Self { lanes, fetcher, stop: stop.clone(), hired: Mutex::default() }
    }

    fn hire(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError> {
        match (&info.decl.source, &info.model, &info.recording) {
            (TeacherSource::Local { model }, Some(known), _) => {
                Ok(Arc::new(LocalTeacher::new(self.lanes.lane(&model.value, known)?, &model.value)))
            }
            (TeacherSource::Replay(_), _, Some(recording)) => {
                Ok(Arc::new(ReplayTeacher::open(&info.decl.name, recording)?))
            }
            _ => Err(RunError::failed("no-teacher", format!("teacher `{}` cannot be asked yet", info.decl.name))),
        }
    }
}

impl Teachers for Staff {
    fn teacher(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError> {
        let mut hired = self.hired.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(teacher) = hired.get(&info.decl.name) {
            return Ok(teacher.clone());
        }
        let teacher = self.hire(info)?;
        hired.insert(info.decl.name.clone(), teacher.clone());
        Ok(teacher)
    }
}
