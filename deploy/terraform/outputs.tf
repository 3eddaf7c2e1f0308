output "registry" {
  description = "Where images are pushed to."
  value       = local.registry
}

output "predictor" {
  description = "The address of the predictor."
  value       = google_cloud_run_v2_service.predictor.uri
}
