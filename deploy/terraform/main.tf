# What the deployment consists of. Who may do what is in access.tf, what is chosen from outside in variables.tf.
terraform {
  required_version = ">= 1.11" # arguments that are only written, and so are kept nowhere
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.7"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  registry = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
  dagster  = "${local.registry}/mbta-training:${var.image_tag}"
  serving  = "${local.registry}/mbta-serving:${var.image_tag}"
  feeds    = "gs://${google_storage_bucket.models.name}/feeds"

  # Of everything that loads the definitions.
  environment = merge(var.settings, {
    DAGSTER_HOME      = "/home/mbta/on-google-cloud"
    CLOUD_RUN_REGION  = var.region
    MBTA_DEPLOYMENT   = "gcp"
    MBTA_AUTOMATION   = "on"
    GCP_PROJECT       = var.project
    GCS_BUCKET        = google_storage_bucket.models.name
    BIGQUERY_DATASET  = google_bigquery_dataset.tables.dataset_id
    BIGQUERY_LOCATION = var.bigquery_location
    MBTA_FEED_ARCHIVE = local.feeds
    WANDB_MODE        = "disabled"
  })

  # Those of `settings` that the predictor reads: how often it looks for a new model, and which agency it predicts for.
  predictor_settings = [
    "MBTA_REFRESH_SECONDS",
    "MBTA_AGENCY_NAME",
    "MBTA_TIME_ZONE",
    "MBTA_SERVICE_DAY_START_HOUR",
    "MBTA_TERMINAL_STOPS",
    "MBTA_ACCURACY_WINDOWS",
    "MBTA_FOREIGN_MODEL",
  ]
}

resource "google_project_service" "used" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "eventarc.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

resource "google_artifact_registry_repository" "images" {
  repository_id = "mbta"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.used]
}

resource "google_storage_bucket" "models" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = 90
      matches_prefix = ["logs/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_bigquery_dataset" "tables" {
  dataset_id = var.dataset
  location   = var.bigquery_location
  depends_on = [google_project_service.used]
}
