variable "project" {
  description = "The id of the project that everything is in."
  type        = string
}

variable "bucket" {
  description = "The name of the bucket to make for models and logs; unique in all of Cloud Storage."
  type        = string
}

variable "region" {
  description = "The region of everything but BigQuery."
  type        = string
  default     = "us-central1"
}

variable "dataset" {
  description = "The name of the dataset to make for tables."
  type        = string
  default     = "delays"
}

variable "bigquery_location" {
  description = "Where the dataset is made and queries run."
  type        = string
  default     = "US"
}

variable "image_tag" {
  description = "The tag of both images; name a commit, so that the one before can be named again."
  type        = string
}

variable "settings" {
  description = "Settings (docs/settings.md), such as MBTA_SOURCE. No secrets: they would be in the state."
  type        = map(string)
  default     = {}
}

variable "viewers" {
  description = "Who may open the UI, such as user:someone@example.com."
  type        = list(string)
  default     = []
}

variable "ui_is_read_only" {
  description = "Whether viewers may only look; otherwise they may launch, end and change whatever the UI can."
  type        = bool
  default     = true
}

variable "predictor_callers" {
  description = "Who may ask the predictor, such as serviceAccount:someone@example.iam.gserviceaccount.com."
  type        = list(string)
  default     = []
}

variable "predictor_is_public" {
  description = "Whether anybody may ask the predictor, without an account."
  type        = bool
  default     = false
}

variable "predictor_instances" {
  description = "How many instances the predictor may have."
  type        = number
  default     = 3
}

variable "run_cpu" {
  description = "How many cores a run has."
  type        = string
  default     = "4"
}

variable "run_memory" {
  description = "How much memory a run has, its disk included."
  type        = string
  default     = "16Gi"
}

variable "database_tier" {
  description = "The machine of the database."
  type        = string
  default     = "db-g1-small"
}

variable "password_version" {
  description = "One more than before gives the database and the secret a new password."
  type        = number
  default     = 1
}

variable "upstream_bucket" {
  description = "The bucket in this project whose new objects are reported to Dagster; null, none."
  type        = string
  default     = null
}

variable "upstream_bucket_location" {
  description = "The location of that bucket, such as us-central1 or us."
  type        = string
  default     = "us-central1"
}

variable "upstream_dataset" {
  description = "The dataset in this project that MBTA_SOURCE=bigquery reads; null, none."
  type        = string
  default     = null
}

variable "collects_feeds" {
  description = "Whether the feeds that MBTA_SOURCE=gtfs reads are collected."
  type        = bool
  default     = false
}

variable "predicts_live" {
  description = "Whether the live feed is predicted; needs collects_feeds. Addresses of feeds are settings."
  type        = bool
  default     = false
}

variable "live_callers" {
  description = "Who may read live predictions, such as serviceAccount:someone@example.iam.gserviceaccount.com."
  type        = list(string)
  default     = []
}

variable "live_is_public" {
  description = "Whether anybody may read live predictions, without an account."
  type        = bool
  default     = false
}

variable "live_cpu" {
  description = "How many cores live predictions have."
  type        = string
  default     = "1"
}

variable "live_memory" {
  description = "How much memory live predictions have."
  type        = string
  default     = "4Gi"
}

variable "upstream_tables" {
  description = "Whether loads into BigQuery tables of this project are reported to Dagster."
  type        = bool
  default     = false
}
