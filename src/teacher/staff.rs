//! The teachers of a run, each made when it is first asked.

use super::hosted::{HostedTeacher, Office, Spent};
use super::{LocalTeacher, ReplayTeacher, Teacher};
use crate::config::{Hosted, TeacherSource};
use crate::exec::{Lanes, RunError, Stop};
use crate::plan::TeacherInfo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Gives out declared teachers.
pub trait Teachers: Send + Sync {
    fn teacher(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError>;

    /// What the run has spent on each hosted teacher so far, in the order in which they were first asked.
    fn spent(&self) -> Vec<Spent> {
        Vec::new()
    }
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
    stop: Stop,
    hired: Mutex<HashMap<String, Arc<dyn Teacher>>>,
    hosted: Mutex<Hosts>,
}

/// Hosted teachers, and where they work: opened when the first of them is asked.
#[derive(Default)]
struct Hosts {
    office: Option<Arc<Office>>,
    teachers: Vec<Arc<HostedTeacher>>,
}

impl Staff {
    pub fn new(lanes: Arc<dyn Lanes>, stop: &Stop) -> Self {
        Self { lanes, stop: stop.clone(), hired: Mutex::default(), hosted: Mutex::default() }
    }

    fn hire(&self, info: &TeacherInfo) -> Result<Arc<dyn Teacher>, RunError> {
        match (&info.decl.source, &info.model, &info.recording) {
            (TeacherSource::Local { model }, Some(known), _) => {
                Ok(Arc::new(LocalTeacher::new(self.lanes.lane(&model.value, known)?, &model.value)))
            }
            (TeacherSource::Replay(_), _, Some(recording)) => {
                Ok(Arc::new(ReplayTeacher::open(&info.decl.name, recording)?))
            }
            (TeacherSource::Hosted(hosted), _, _) => self.engage(info, hosted),
            _ => Err(RunError::failed("no-teacher", format!("teacher `{}` cannot be asked yet", info.decl.name))),
        }
    }

    fn engage(&self, info: &TeacherInfo, hosted: &Hosted) -> Result<Arc<dyn Teacher>, RunError> {
        let mut hosts = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        let office = match &hosts.office {
            Some(office) => office.clone(),
            None => hosts.office.insert(Arc::new(Office::open()?)).clone(),
        };
        let teacher = Arc::new(HostedTeacher::hire(info, hosted, office, &self.stop)?);
        hosts.teachers.push(teacher.clone());
        Ok(teacher)
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

    fn spent(&self) -> Vec<Spent> {
        let hosts = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.teachers.iter().map(|teacher| teacher.spent()).collect()
    }
}
